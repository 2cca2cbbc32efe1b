//! Makes the files that phones get from what people write, one site at a time.

mod findings;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use minijinja::value::{Serde, Value};
use zeroize::Zeroizing;

use super::assets::{Asset, Assets};
use super::images::Images;
use super::inventory::{FleetInventory, InventorySite, PhoneLine, Variable};
use super::secrets::{PREFIX, Secrets};
use super::templates::{FileScope, ModelSet, TemplateFile, Templates};
use access::owner::{self, NameOwner};
use bundle::{Class, Scope};
use ids::{FileName, MacAddr};
use repository::layout::Layout;
use settings::Problem;

pub use findings::Findings;

/// A whole fleet directory, with its templates compiled.
#[derive(Debug)]
pub struct FleetDir {
    /// The fleet, its sites and its phones.
    pub inventory: FleetInventory,
    /// The compiled templates, and what each `model.toml` says.
    pub templates: Templates,
    /// The files of `files/` and `firmware/`, which are served as they are.
    pub assets: Assets,
    /// The images of the appliance in `images/`.
    pub images: Images,
    /// The values that `secret:NAME` stands for.
    pub secrets: Secrets,
    /// The addresses of all phones in the inventory.
    macs: HashSet<MacAddr>,
}

/// One file of a site before it is sealed.
#[derive(Debug, Clone)]
pub struct SiteFile {
    /// The name by which phones ask for it.
    pub name: FileName,
    /// Which phones may fetch it.
    pub scope: Scope,
    /// What kind of file it is: configuration, firmware, trust list, …
    pub class: Class,
    /// Its content: rendered bytes, or a file of the fleet directory.
    pub body: Body,
    /// What it was made from, for messages.
    pub origin: Location,
}

/// The content of a file.
#[derive(Debug, Clone)]
pub enum Body {
    /// It was rendered here. The bytes are wiped after use, because they may hold passwords.
    Rendered(Zeroizing<Vec<u8>>),
    /// It is a file of the fleet directory, which is not read yet.
    Asset(Arc<Asset>),
}

/// A file of the fleet directory, and a line of it if that is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// The path relative to the fleet directory.
    pub file: String,
    /// The line, from 1; `None` means the file as a whole.
    pub line: Option<usize>,
}

impl FleetDir {
    /// Reads a fleet directory and compiles its templates. What is wrong goes to `findings`. `None` if there is no
    /// usable `fleet.toml`.
    pub fn read(layout: &Layout, findings: &mut Findings) -> Option<Self> {
        let inventory = FleetInventory::read(layout, &mut findings.problems)?;
        let templates = Templates::read(layout, &mut findings.problems);
        let assets = Assets::read(layout, &templates, &mut findings.problems);
        let images = Images::read(layout, &mut findings.problems);
        let secrets = match Secrets::open(layout, &inventory.fleet) {
            Ok(secrets) => secrets,
            Err(error) => {
                findings.problems.push(Problem::at_file("secrets.age", format!("{error:#}")));
                Secrets::locked()
            }
        };
        let macs = inventory.phones.iter().map(|phone| phone.mac).collect();
        let fleet = Self { inventory, templates, assets, images, secrets, macs };
        fleet.check_images(findings);
        Some(fleet)
    }

    /// Adds a problem for every image that a site asks for and that is not in `images/`.
    fn check_images(&self, findings: &mut Findings) {
        let asked = self.inventory.sites.values().filter_map(|site| site.settings.image.as_ref());
        // `once`, because many sites have the fleet's image.
        for image in asked.filter(|image| self.images.get(&image.name).is_none()) {
            let known: Vec<&str> = self.images.names().collect();
            let problem = Problem::at_line(&image.file, image.line, format!("there is no image `{}`", image.name));
            findings.once(match settings::nearest(&image.name, &known) {
                Some(near) => problem.hint(format!("did you mean `{near}`?")),
                None => problem.hint("`lineside-hq image add FILE.raucb` puts one into images/"),
            });
        }
    }

    /// Whose a file name is: a phone of the inventory, or any address by the general rule.
    pub fn owner_of(&self, name: &FileName) -> NameOwner {
        owner::of(name, &|mac| self.macs.contains(&mac))
    }

    /// Makes every file of a site, in the order of the names. What is wrong with them goes to `findings`.
    pub fn site_files(&self, site: &InventorySite, phones: &[&PhoneLine], findings: &mut Findings) -> Vec<SiteFile> {
        let mut files = Vec::new();
        let mut by_set: BTreeMap<&str, Vec<&PhoneLine>> = BTreeMap::new();
        for phone in phones {
            match self.templates.of_model(&phone.model) {
                Some(set) => by_set.entry(&set.name).or_default().push(phone),
                None => findings.problems.push(self.unknown_model(phone)),
            }
        }
        for (set, phones) in &by_set {
            let Some(set) = self.templates.sets.get(*set) else { continue };
            self.set_files(site, set, phones, &mut files, findings);
        }
        for asset in self.assets.files() {
            files.extend(self.plain_file(asset, phones, findings));
        }
        files.sort_by(|a, b| a.name.cmp(&b.name));
        files
    }

    fn set_files(
        &self,
        site: &InventorySite,
        set: &ModelSet,
        phones: &[&PhoneLine],
        files: &mut Vec<SiteFile>,
        findings: &mut Findings,
    ) {
        let shared: Vec<&TemplateFile> = set.files.iter().filter(|file| file.scope != FileScope::Device).collect();
        if !shared.is_empty() {
            let context = self.context(site, set, None, findings);
            for file in shared {
                files.extend(self.render(set, file, &context, None, findings));
            }
        }
        for phone in phones {
            let context = self.context(site, set, Some(phone), findings);
            for file in set.files.iter().filter(|file| file.scope == FileScope::Device) {
                files.extend(self.render(set, file, &context, Some(phone), findings));
            }
        }
        for asset in self.assets.firmware_of(&set.name) {
            files.push(SiteFile {
                name: asset.name.clone(),
                scope: Scope::Model(set.name.clone()),
                class: Class::Firmware,
                origin: Location { file: asset.file.clone(), line: None },
                body: Body::Asset(Arc::clone(asset)),
            });
        }
    }

    fn plain_file(&self, asset: &Arc<Asset>, phones: &[&PhoneLine], findings: &mut Findings) -> Option<SiteFile> {
        let unclear = |what: String, hint: &str| Problem::at_file(&asset.file, what).hint(hint);
        let scope = match self.owner_of(&asset.name) {
            NameOwner::Shared => Scope::Everyone,
            NameOwner::Several(one, other) => {
                let what = format!("the addresses {one} and {other} both end with the digits in the name");
                findings.once(unclear(what, "make it from a template with scope \"device\""));
                return None;
            }
            NameOwner::NoDevice => {
                let what = "the name has the last ten digits of a gateway's address, and no phone's ends with them";
                findings.once(unclear(what.to_owned(), "add the gateway to phones.csv"));
                return None;
            }
            NameOwner::Device(mac) if self.inventory.fleet.device_files => {
                // The file belongs to a phone of another site.
                if self.macs.contains(&mac) && !phones.iter().any(|phone| phone.mac == mac) {
                    return None;
                }
                Scope::Device(mac)
            }
            NameOwner::Device(mac) => {
                let what = format!("the name carries the address {mac}, but every phone could fetch the file");
                findings.once(unclear(what, "make it from a template with scope \"device\""));
                return None;
            }
        };
        let class = match asset.name.folded() {
            name if name.ends_with(".tlv") => Class::TrustList,
            _ if matches!(scope, Scope::Device(_)) => Class::Config,
            _ => Class::Locale,
        };
        Some(SiteFile {
            name: asset.name.clone(),
            scope,
            class,
            origin: Location { file: asset.file.clone(), line: None },
            body: Body::Asset(Arc::clone(asset)),
        })
    }

    fn render(
        &self,
        set: &ModelSet,
        file: &TemplateFile,
        context: &Value,
        phone: Option<&PhoneLine>,
        findings: &mut Findings,
    ) -> Option<SiteFile> {
        let engine = &self.templates.engine;
        let pattern = file.name_template();
        let place = Location { file: set.file(), line: Some(file.line) };
        let name = match engine.render(&pattern, context) {
            Ok(name) => name,
            Err(mut error) => {
                error.template = format!("{}/model.toml", set.name);
                error.line = Some(file.line);
                error.message = format!("`name`: {}", error.message);
                findings.failed(error, phone);
                return None;
            }
        };
        let name = match name.parse::<FileName>() {
            Ok(name) => name,
            Err(error) => {
                let mut problem = Problem::at_file(&place.file, format!("`{name}`: {error}")).line(place.line);
                if let Some(phone) = phone {
                    problem = problem.hint(format!("it is made for phone {} (phones.csv:{})", phone.mac, phone.line));
                }
                findings.once(problem);
                return None;
            }
        };
        match engine.render(&file.template, context) {
            Ok(text) => Some(SiteFile {
                name,
                scope: match (file.scope, phone) {
                    (FileScope::Device, Some(phone)) => Scope::Device(phone.mac),
                    (FileScope::Everyone, _) => Scope::Everyone,
                    _ => Scope::Model(set.name.clone()),
                },
                class: file.class,
                body: Body::Rendered(Zeroizing::new(text.into_bytes())),
                origin: place,
            }),
            Err(mut error) => {
                let variable = error.message.strip_prefix('`').and_then(|rest| rest.strip_suffix("` is not set"));
                if phone.is_none() && variable.is_some_and(|variable| self.is_secret(variable)) {
                    error.message =
                        format!("{} is a secret, but other phones could fetch {name}", variable.unwrap_or_default());
                    error.missing = false;
                    findings.once(error.problem().hint("put it into a file with scope \"device\""));
                    return None;
                }
                // If the template did not compile, that was reported when it was read.
                if self.templates.engine.has(&file.template) {
                    findings.failed(error, phone);
                }
                None
            }
        }
    }

    /// The values that a template can use: `fleet`, `site`, `phone` and the variables. A phone's variable wins over the
    /// site's, the site's over the fleet's, the fleet's over the model's.
    fn context(
        &self,
        site: &InventorySite,
        set: &ModelSet,
        phone: Option<&PhoneLine>,
        findings: &mut Findings,
    ) -> Value {
        let mut merged: BTreeMap<&str, &Variable> = BTreeMap::new();
        let layers = [&set.variables, &self.inventory.fleet.variables, &site.variables];
        for (name, variable) in layers.into_iter().chain(phone.map(|phone| &phone.variables)).flatten() {
            merged.insert(name, variable);
        }
        let mut context: BTreeMap<String, Value> = BTreeMap::new();
        for (name, variable) in merged {
            let value = match secret_name(variable) {
                None => Value::from(Serde(&variable.value)),
                // A file that other phones could fetch never sees a secret.
                Some(_) if phone.is_none() => continue,
                Some(secret) => self.secret(secret, variable, findings),
            };
            context.insert(name.to_owned(), value);
        }
        let fields = |fields: &[(&str, &str)]| -> Value {
            let map: BTreeMap<String, Value> =
                fields.iter().map(|(name, value)| ((*name).to_owned(), Value::from(*value))).collect();
            Value::from(map)
        };
        context.insert("fleet".to_owned(), fields(&[("name", &self.inventory.fleet.name)]));
        context.insert("site".to_owned(), fields(&[("name", &site.name), ("id", site.id.as_str())]));
        if let Some(phone) = phone {
            let phone = fields(&[
                ("mac", &phone.mac.lower()),
                ("mac_upper", &phone.mac.upper()),
                ("mac_colons", &phone.mac.to_string()),
                ("model", &phone.model),
                ("label", &phone.label),
            ]);
            context.insert("phone".to_owned(), phone);
        }
        Value::from(context)
    }

    /// The value of a secret. If it cannot be had, that is a problem, and a placeholder lets the template be checked
    /// all the same.
    fn secret(&self, name: &str, variable: &Variable, findings: &mut Findings) -> Value {
        match self.secrets.resolve(name) {
            Ok(secret) => Value::from(secret.as_str()),
            Err(reason) => {
                let message = format!("there is no secret `{name}`: {reason}");
                findings.once(
                    Problem::at_line(&variable.file, variable.line, message)
                        .hint(format!("set it with `lineside-hq secret set {name}`")),
                );
                Value::from("missing")
            }
        }
    }

    /// Whether this variable stands for a secret at any phone, site or model, or in the fleet.
    fn is_secret(&self, variable: &str) -> bool {
        let inventory = &self.inventory;
        let sites = inventory.sites.values().map(|site| &site.variables);
        let phones = inventory.phones.iter().map(|phone| &phone.variables);
        let sets = self.templates.sets.values().map(|set| &set.variables);
        std::iter::once(&inventory.fleet.variables)
            .chain(sites)
            .chain(phones)
            .chain(sets)
            .any(|variables| variables.get(variable).and_then(secret_name).is_some())
    }

    fn unknown_model(&self, phone: &PhoneLine) -> Problem {
        let known: Vec<&str> = self.templates.by_model.keys().map(String::as_str).collect();
        let problem =
            Problem::at_line("phones.csv", phone.line, format!("there are no templates for model `{}`", phone.model));
        match settings::nearest(&phone.model, &known) {
            Some(near) => problem.hint(format!("did you mean `{near}`?")),
            None if known.is_empty() => problem.hint("make templates/MODEL/model.toml"),
            None => problem.hint(format!("there are templates for {}", known.join(", "))),
        }
    }
}

/// The name of the secret that a variable stands for; `None` if it stands for none.
fn secret_name(variable: &Variable) -> Option<&str> {
    variable.value.as_str()?.strip_prefix(PREFIX)
}

impl SiteFile {
    /// The size of its content in bytes.
    pub fn bytes(&self) -> u64 {
        match &self.body {
            Body::Rendered(bytes) => u64::try_from(bytes.len()).unwrap_or(u64::MAX),
            Body::Asset(asset) => asset.bytes,
        }
    }
}
