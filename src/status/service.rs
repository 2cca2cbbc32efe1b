//! Answers `lineside status` on a Unix socket. A request is one word, an answer is one JSON value.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::report::StatusReport;
use super::stats::Stats;

/// The longest request, in bytes.
const MAX_REQUEST_BYTES: u64 = 32;
/// The longest answer that [`ask`] reads, in bytes.
const MAX_ANSWER_BYTES: u64 = 4 * 1024 * 1024;
/// How long one exchange may take. A roll-back takes longest, because it verifies a whole release again.
const EXCHANGE: Duration = Duration::from_secs(60);

/// What a client of the socket can have the appliance do; `appliance::commands` carries it out.
#[derive(Debug)]
pub enum SocketCommand {
    /// Poll HQ now. It has no answer.
    Poll,
    /// Go back to the release before this one. The answer is a sentence for people, `Err` if it failed.
    RollBack(oneshot::Sender<Result<String, String>>),
    /// Check whether the appliance does what it is for. The answer is a sentence for people, `Err` if it does not.
    Health(oneshot::Sender<Result<String, String>>),
}

/// The listening socket. To drop it removes its file.
#[derive(Debug)]
pub struct StatusService {
    listener: UnixListener,
    path: PathBuf,
}

impl StatusService {
    /// Listens on `path`, with mode 0660. A socket that a dead process has left there is replaced.
    #[expect(clippy::disallowed_methods, reason = "a socket's folder is below /run, which no power cut survives")]
    pub fn bind(path: &Path) -> std::io::Result<Self> {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        match std::os::unix::net::UnixStream::connect(path) {
            Ok(_) => return Err(std::io::Error::new(std::io::ErrorKind::AddrInUse, "another lineside answers there")),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => std::fs::remove_file(path)?,
            Err(_) => {}
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
        Ok(Self { listener, path: path.to_owned() })
    }

    /// Answers until `stop`, one client at a time; each exchange ends within a minute. Commands go to `commands`.
    pub async fn run(self, stats: Stats, commands: mpsc::Sender<SocketCommand>, stop: CancellationToken) {
        loop {
            let stream = tokio::select! {
                () = stop.cancelled() => return,
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        warn!(%error, "status socket");
                        tokio::time::sleep(Duration::from_millis(200)).await;
                        continue;
                    }
                },
            };
            let answered = tokio::select! {
                () = stop.cancelled() => return,
                answered = tokio::time::timeout(EXCHANGE, answer(stream, &stats, &commands)) => answered,
            };
            if let Ok(Err(error)) = answered {
                debug!(%error, "status request");
            }
        }
    }
}

impl Drop for StatusService {
    fn drop(&mut self) {
        // The file may be gone already, which is fine.
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn answer(mut stream: UnixStream, stats: &Stats, commands: &mpsc::Sender<SocketCommand>) -> std::io::Result<()> {
    let mut request = String::new();
    (&mut stream).take(MAX_REQUEST_BYTES).read_to_string(&mut request).await?;
    let reply = match request.trim() {
        "status" => serde_json::to_string(&StatusReport::of(stats)).map_err(std::io::Error::other)?,
        "poll" => match commands.try_send(SocketCommand::Poll) {
            Ok(()) => "\"polling now\"".to_owned(),
            Err(_) => "\"busy; ask again\"".to_owned(),
        },
        "roll-back" => outcome(commands, SocketCommand::RollBack).await?,
        "health" => outcome(commands, SocketCommand::Health).await?,
        _ => "\"unknown request\"".to_owned(),
    };
    stream.write_all(reply.as_bytes()).await?;
    stream.shutdown().await
}

/// Sends a command, waits for its outcome and returns that as JSON.
async fn outcome(
    commands: &mpsc::Sender<SocketCommand>,
    command: impl FnOnce(oneshot::Sender<Result<String, String>>) -> SocketCommand,
) -> std::io::Result<String> {
    let (tell, told) = oneshot::channel();
    let outcome = match commands.send(command(tell)).await {
        Ok(()) => told.await.unwrap_or_else(|_| Err("the appliance is stopping".to_owned())),
        Err(_) => Err("the appliance is stopping".to_owned()),
    };
    serde_json::to_string(&outcome).map_err(std::io::Error::other)
}

/// Asks the appliance that listens on `path`: `status`, `poll`, `roll-back` or `health`. Returns its JSON answer.
pub async fn ask(path: &Path, request: &str) -> std::io::Result<String> {
    let exchange = async {
        let mut stream = UnixStream::connect(path).await?;
        stream.write_all(request.as_bytes()).await?;
        stream.shutdown().await?;
        let mut reply = String::new();
        stream.take(MAX_ANSWER_BYTES).read_to_string(&mut reply).await?;
        Ok(reply)
    };
    tokio::time::timeout(EXCHANGE, exchange).await.map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_status_request_gets_the_report_and_a_poll_request_is_passed_on() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("run/status.sock");
        let service = StatusService::bind(&path).expect("bind");
        let (commands, mut received) = mpsc::channel(4);
        let stop = CancellationToken::new();
        let task = tokio::spawn(service.run(Stats::new(), commands, stop.clone()));

        let report: StatusReport =
            serde_json::from_str(&ask(&path, "status").await.expect("status")).expect("a report");
        assert_eq!(report.state, "starting");
        assert_eq!(ask(&path, "poll").await.expect("poll"), "\"polling now\"");
        assert!(matches!(received.recv().await, Some(SocketCommand::Poll)));
        assert_eq!(ask(&path, "rm -rf").await.expect("nonsense"), "\"unknown request\"");

        stop.cancel();
        task.await.expect("the service ends");
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_socket_left_by_a_dead_process_is_replaced_but_a_living_one_is_not() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("status.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).expect("a leftover"));
        let first = StatusService::bind(&path).expect("the leftover is replaced");
        assert!(StatusService::bind(&path).is_err());
        drop(first);
    }
}
