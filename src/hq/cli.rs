//! The command line of `lineside-hq`.

mod authority;
mod backup;
mod desk;
mod enrolment;
mod fleet;
mod keys;
mod run;
mod site;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub use authority::CaCommand;
pub use desk::ApiTokenCommand;
pub use enrolment::EnrolmentCommand;
pub use keys::KeysCommand;
pub use run::run;

/// Provisioning of IP phones from a directory in git: check it, plan, publish, and serve the result to sites.
#[derive(Debug, Parser)]
#[command(
    name = "lineside-hq",
    version,
    about = "Site-local provisioning appliance for IP phones that only speak TFTP, and the HQ that feeds it",
    max_term_width = 100
)]
pub struct Cli {
    /// The fleet directory
    #[arg(long, global = true, value_name = "DIR", default_value = ".")]
    pub fleet: PathBuf,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// What `lineside-hq` can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start a fleet directory: samples, templates, all keys
    Init {
        /// The directory to make; it must not exist or be empty
        dir: PathBuf,
        /// What people call the fleet
        #[arg(long, default_value = "Phones")]
        name: String,
        /// Where sites will reach HQ
        #[arg(long, default_value = "https://hq.example.net:8443")]
        url: String,
        /// Encrypt the offline keys with a passphrase: typed, or in LINESIDE_PASSPHRASE
        #[arg(long)]
        passphrase: bool,
    },
    /// Add, enroll, list, rename, revoke or remove sites
    #[command(subcommand)]
    Site(SiteCommand),
    /// List the enrolments that no publish took over yet, or put one aside
    #[command(subcommand)]
    Enrolment(EnrolmentCommand),
    /// Set, make or list the passwords in secrets.age
    #[command(subcommand)]
    Secret(SecretCommand),
    /// Show and change who is trusted to sign what
    #[command(subcommand)]
    Keys(KeysCommand),
    /// Find every problem of the fleet directory
    Check,
    /// Show what publishing would change
    Plan {
        /// These sites only
        sites: Vec<String>,
    },
    /// Render, seal and sign what changed
    Publish {
        /// These sites only
        sites: Vec<String>,
        /// Only keep what is published from expiring; needs the online key and nothing else
        #[arg(long, conflicts_with = "sites")]
        refresh: bool,
        /// This machine's clock is right, although no other clock says so or others say otherwise
        #[arg(long)]
        clock_is_right: bool,
        /// Seal to recipients that nobody proved, and take away sites or most phones, without being asked
        #[arg(long)]
        yes: bool,
        /// Publish from a checkout that lacks commits which were published
        #[arg(long)]
        outdated: bool,
        /// Make a new release of the same content, for named sites whose people went back from it
        #[arg(long, requires = "sites")]
        again: bool,
    },
    /// Print the bytes that a phone would get, or why it would get none
    Preview {
        /// The site's name
        site: String,
        /// The phone's address
        mac: String,
        /// The file that it asks for
        name: String,
    },
    /// Add or list images of the appliance itself
    #[command(subcommand)]
    Image(ImageCommand),
    /// Show how the sites are
    Fleet {
        /// This site only, one fact a line
        site: Option<String>,
    },
    /// Send this directory's work to HQ's host on another machine
    Login {
        /// Where `serve --operators` answers there: https://HOST:PORT
        url: String,
        /// A file with what `api-token add` printed there [default: ask, or standard input]
        #[arg(long, value_name = "FILE")]
        token: Option<PathBuf>,
    },
    /// Forget HQ's host
    Logout,
    /// Add, list or revoke the tokens by which desks log in; on HQ's host
    #[command(subcommand)]
    ApiToken(ApiTokenCommand),
    /// Write a backup of HQ's host into one encrypted file: database, CA, online key
    Backup {
        /// The file, or a folder in which it is named with its date [default: backups in the online directory]
        #[arg(long, value_name = "FILE")]
        to: Option<PathBuf>,
        /// The online directory [default: online in the fleet directory]
        #[arg(long)]
        dir: Option<PathBuf>,
    },
    /// Put HQ's host back from a backup
    Restore {
        /// The backup
        file: PathBuf,
        /// The recovery key [default: keys/recovery.key]
        #[arg(long, value_name = "FILE")]
        key: Option<PathBuf>,
    },
    /// Make HQ's database anew from git, the published tree and the certificates that were issued
    Rebuild,
    /// What HQ's host has for a web server of your own
    #[command(subcommand)]
    Online(OnlineCommand),
    /// Serve sites: downloads, enrolment, check-in
    Serve {
        /// Where to listen
        #[arg(long, default_value = "[::]:8443")]
        listen: SocketAddr,
        /// Where to answer desks that log in [default: 127.0.0.1:8444]
        #[arg(long, value_name = "ADDRESS")]
        operators: Option<SocketAddr>,
        /// Serve although the fleet's own keys can be read here; only to try it out
        #[arg(long)]
        keys_here: bool,
        /// The online directory [default: online in the fleet directory]
        #[arg(long)]
        dir: Option<PathBuf>,
        /// This machine's clock is right, although no other clock says so or others say otherwise
        #[arg(long)]
        clock_is_right: bool,
    },
}

/// What can be done with sites.
#[derive(Debug, Subcommand)]
pub enum SiteCommand {
    /// Write sites/NAME.toml with an id of its own
    Add {
        /// What people call the site
        name: String,
    },
    /// Make the token that turns one appliance into this site
    #[command(alias = "enrol")]
    Enroll {
        /// The site's name
        name: String,
        /// Show it as a QR code, too
        #[arg(long)]
        qr: bool,
        /// Write it into this file (0600) instead of printing it
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// List the sites
    List,
    /// Lock a site's appliance out, for example when it was stolen
    Revoke {
        /// The site's name or id, also of a site that left the fleet directory
        name: String,
    },
    /// Give a site another name; its appliance stays
    Rename {
        /// Its name
        old: String,
        /// Its new name
        new: String,
    },
    /// Take a site out of the fleet directory, once its appliance is revoked
    Remove {
        /// The site's name
        name: String,
        /// Remove its phones from phones.csv, too
        #[arg(long)]
        phones: bool,
    },
}

/// What HQ's host has for others.
#[derive(Debug, Subcommand)]
pub enum OnlineCommand {
    /// Make NAME.key and NAME.pem, which sites accept as HQ's, for a web server that serves the published tree
    Certificate {
        /// The host name or address of that server, as in `repository`
        name: String,
        /// The folder to write them into
        #[arg(long, value_name = "DIR", default_value = ".")]
        to: PathBuf,
    },
}

/// What can be done with images.
#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// Put a RAUC bundle into images/
    Add {
        /// The bundle that image/build made
        file: PathBuf,
    },
    /// List the images, and how many sites shall run each
    List,
}

/// What can be done with secrets.
#[derive(Debug, Subcommand)]
pub enum SecretCommand {
    /// Set a secret to the line that is read from standard input
    Set {
        /// Its name, as in secret:NAME
        name: String,
    },
    /// Make a random password for each name that has none
    Generate {
        /// Their names
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Let `publish` and `preview` run the program that `secrets-command` names, as it is now
    AllowCommand,
    /// List the names
    List,
}

/// Runs the program: 0 done, 1 failed, 2 wrong arguments.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let code = u8::try_from(error.exit_code()).unwrap_or(2);
            // If standard error is closed, there is nowhere left to report to.
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    match run(&cli, &mut std::io::stdout().lock()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        // The reader of the output, for example `head`, has closed it. That is no failure.
        Err(error) if run::is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprint!("{}", run::explain(&error));
            ExitCode::from(1)
        }
    }
}
