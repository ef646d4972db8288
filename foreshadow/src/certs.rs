//! `foreshadow certs`: the certificates of the own authority, for people who enrol data planes.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use clap::Subcommand;
use domain::NodeId;
use serde::Serialize;
use xds_server::authority::{self, Found, LocalAuthority, NodeFiles};
use xds_server::bootstrap::{self, Bootstrap, Protocol};

use crate::cli::Output;
use crate::client::print;
use crate::config::Config;
use crate::error::Failure;

/// Options of `certs`.
#[derive(Debug, Clone, clap::Args)]
pub struct CertsOptions {
    /// What to do.
    #[command(subcommand)]
    pub command: CertsCommand,
}

/// What to do with certificates.
#[derive(Debug, Clone, Subcommand)]
pub enum CertsCommand {
    /// Make an authority, if there is none yet (`serve` does so by itself).
    Init(Place),
    /// Issue a certificate to a node, an operator (`--node operator`) or a web server.
    Issue(IssueOptions),
    /// List the certificates of the authority's folder, and when they end.
    List(ListOptions),
    /// Make certificates of nodes in the authority's folder anew now; a running `serve` does so
    /// itself when a third of their life is left.
    Rotate(RotateOptions),
}

/// Where the authority is.
#[derive(Debug, Clone, clap::Args)]
pub struct Place {
    /// The authority's folder.
    #[arg(
        long,
        env = "FORESHADOW_AUTHORITY",
        default_value = "foreshadow-data/tls",
        conflicts_with = "config"
    )]
    pub authority: PathBuf,
    /// A configuration file that names it.
    #[arg(long, short)]
    pub config: Option<PathBuf>,
}

impl Place {
    fn folder(&self) -> Result<PathBuf, Failure> {
        match &self.config {
            None => Ok(self.authority.clone()),
            Some(file) => {
                let config = Config::load(file)?;
                Ok(config.security.authority(&config.data))
            }
        }
    }

    /// Opens one that is there.
    fn open(&self) -> Result<LocalAuthority, Failure> {
        let folder = self.folder()?;
        if !folder.join("authority.key").is_file() {
            return Err(Failure::Config(format!(
                "no authority in {}: name its folder with --authority, a configuration with --config, or \
                 make one with `foreshadow certs init`",
                folder.display()
            )));
        }
        LocalAuthority::open(folder).map_err(|error| unusable(&error))
    }
}

/// Options of `certs issue`.
#[derive(Debug, Clone, clap::Args)]
pub struct IssueOptions {
    /// Where the authority is.
    #[command(flatten)]
    pub place: Place,
    /// The node.
    #[arg(long, required_unless_present = "web")]
    pub node: Option<NodeId>,
    /// A name or address of a web server (the page and the control API elsewhere); may be repeated.
    #[arg(long, conflicts_with_all = ["node", "home", "envoy"])]
    pub web: Vec<String>,
    /// The folder that the files go to.
    #[arg(long)]
    pub out: PathBuf,
    /// Where the node will find that folder, if it is carried elsewhere.
    #[arg(long)]
    pub home: Option<PathBuf>,
    /// Write `envoy.yaml` too: the bootstrap of an Envoy that follows this control plane.
    #[arg(long, requires = "control_plane")]
    pub envoy: bool,
    /// Where the control plane answers.
    #[arg(long)]
    pub control_plane: Option<SocketAddr>,
    /// Where the Envoy serves clients.
    #[arg(long, requires = "envoy")]
    pub listen: Option<SocketAddr>,
    /// Where the Envoy's own administration listens.
    #[arg(long, requires = "envoy", default_value = "127.0.0.1:9901")]
    pub admin: SocketAddr,
}

/// Options of `certs list`.
#[derive(Debug, Clone, clap::Args)]
pub struct ListOptions {
    /// Where the authority is.
    #[command(flatten)]
    pub place: Place,
    /// How it is printed.
    #[arg(short, long, value_enum, default_value = "text")]
    pub output: Output,
}

/// Options of `certs rotate`.
#[derive(Debug, Clone, clap::Args)]
pub struct RotateOptions {
    /// Where the authority is.
    #[command(flatten)]
    pub place: Place,
    /// Only this node's.
    #[arg(long)]
    pub node: Option<NodeId>,
}

/// `foreshadow certs`.
///
/// # Errors
/// [`Failure::Config`] naming the folder, file or name that cannot be used.
pub fn run(options: CertsOptions) -> Result<ExitCode, Failure> {
    match options.command {
        CertsCommand::Init(place) => {
            let authority =
                LocalAuthority::open(place.folder()?).map_err(|error| unusable(&error))?;
            println!("the authority is in {}", authority.folder().display());
            Ok(ExitCode::SUCCESS)
        }
        CertsCommand::Issue(options) => issue(&options),
        CertsCommand::List(options) => list(&options),
        CertsCommand::Rotate(options) => rotate(&options),
    }
}

fn issue(options: &IssueOptions) -> Result<ExitCode, Failure> {
    let authority = options.place.open()?;
    let Some(node) = &options.node else {
        let file = options.web.first().map_or("web", String::as_str);
        let files = authority
            .keep_web(&options.web, file, &options.out)
            .map_err(|error| unusable(&error))?;
        told(&files.certificate)?;
        return Ok(ExitCode::SUCCESS);
    };
    if node.as_str() == "authority" {
        let words =
            "--node is authority; allowed is another name: its files would be the authority's";
        return Err(Failure::Config(words.to_owned()));
    }
    let home = options.home.as_deref();
    let files = authority
        .enrol(node, &options.out, home)
        .map_err(|error| unusable(&error))?;
    told(&files.certificate)?;
    if let (true, Some(control_plane)) = (options.envoy, options.control_plane) {
        let there = match home {
            None => files,
            Some(home) => NodeFiles::beside(home, node),
        };
        let text = bootstrap::envoy(&Bootstrap {
            node: node.clone(),
            listen: options.listen,
            admin: options.admin,
            control_plane,
            protocol: Protocol::Delta,
            identity: Some(there),
        });
        let file = options.out.join("envoy.yaml");
        std::fs::write(&file, text).map_err(crate::door::bad(&file))?;
        println!("{}: start it with envoy -c", file.display());
    }
    Ok(ExitCode::SUCCESS)
}

fn told(certificate: &Path) -> Result<(), Failure> {
    let found = authority::look_at(certificate).map_err(|error| unusable(&error))?;
    println!("{}", Listed::of(&found, "issued", SystemTime::now()).line());
    Ok(())
}

/// A certificate, as it is listed.
#[derive(Debug, Serialize)]
struct Listed {
    what: &'static str,
    names: Vec<String>,
    certificate: PathBuf,
    /// Days until it ends; negative when it has.
    days_left: i64,
}

impl Listed {
    fn of(found: &Found, what: &'static str, now: SystemTime) -> Self {
        let days = |duration: std::time::Duration| {
            i64::try_from(duration.as_secs() / 86_400).unwrap_or(i64::MAX)
        };
        Self {
            what,
            names: found.names.clone(),
            certificate: found.certificate.clone(),
            days_left: match found.ends.duration_since(now) {
                Ok(left) => days(left),
                Err(over) => -days(over.duration()) - 1,
            },
        }
    }

    fn line(&self) -> String {
        let ends = match self.days_left {
            left if left < 0 => "has ended".to_owned(),
            left => format!("ends in {left} days"),
        };
        let file = self.certificate.display();
        let names = self.names.join(", ");
        format!("{}  {names}  {ends}  {file}", self.what)
    }
}

fn list(options: &ListOptions) -> Result<ExitCode, Failure> {
    let authority = options.place.open()?;
    let now = SystemTime::now();
    let mut files = vec![("authority", authority.certificate())];
    for (what, name) in [("xds", "server.crt"), ("page", "page.crt")] {
        let file = authority.folder().join(name);
        files.extend(file.is_file().then_some((what, file)));
    }
    for node in authority.nodes().map_err(|error| unusable(&error))? {
        let file = NodeFiles::of(authority.folder(), &node).certificate;
        files.push(("node", file));
    }
    let mut listed = Vec::new();
    for (what, file) in files {
        let found = authority::look_at(&file).map_err(|error| unusable(&error))?;
        listed.push(Listed::of(&found, what, now));
    }
    print(options.output, &listed, || {
        let mut text = String::new();
        for one in &listed {
            let _ = writeln!(text, "{}", one.line());
        }
        text
    })
}

fn rotate(options: &RotateOptions) -> Result<ExitCode, Failure> {
    let authority = options.place.open()?;
    let known = authority.nodes().map_err(|error| unusable(&error))?;
    if let Some(node) = options.node.as_ref().filter(|node| !known.contains(node)) {
        let folder = authority.folder().display();
        return Err(Failure::Config(format!(
            "node {node} has no certificate in {folder}/nodes; where it was issued with --out, issue it again"
        )));
    }
    for node in known {
        if options.node.as_ref().is_some_and(|only| *only != node) {
            continue;
        }
        let files = authority.node(&node).map_err(|error| unusable(&error))?;
        told(&files.certificate)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn unusable(error: &xds_server::XdsError) -> Failure {
    Failure::Config(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn place(folder: &Path) -> Place {
        Place {
            authority: folder.to_owned(),
            config: None,
        }
    }

    #[test]
    fn a_node_is_enrolled_with_a_bootstrap_that_names_where_the_files_will_be() {
        let folder = tempfile::tempdir().unwrap();
        let (tls, out) = (folder.path().join("tls"), folder.path().join("out"));
        let issue_it = || {
            issue(&IssueOptions {
                place: place(&tls),
                node: Some(NodeId::new("web-1").unwrap()),
                web: Vec::new(),
                out: out.clone(),
                home: Some(PathBuf::from("/etc/foreshadow/web-1")),
                envoy: true,
                control_plane: Some(([192, 0, 2, 1], 18_000).into()),
                listen: None,
                admin: ([127, 0, 0, 1], 9_901).into(),
            })
        };
        let missing = issue_it().unwrap_err().to_string();
        assert!(missing.contains("certs init"), "{missing}");
        LocalAuthority::open(&tls).unwrap();
        issue_it().unwrap();
        let text = |name: &str| std::fs::read_to_string(out.join(name)).unwrap();
        assert!(text("envoy.yaml").contains("\"/etc/foreshadow/web-1/web-1.sds.yaml\""));
        assert!(text("web-1.sds.yaml").contains("\"/etc/foreshadow/web-1/web-1.key\""));
        assert!(text("web-1.ca.sds.yaml").contains("\"/etc/foreshadow/web-1/authority.crt\""));
        let found = authority::look_at(&out.join("web-1.crt")).unwrap();
        assert_eq!(found.names, ["web-1", "spiffe://foreshadow/node/web-1"]);
        // What is carried elsewhere is not kept here.
        let authority = LocalAuthority::open(&tls).unwrap();
        assert_eq!(authority.nodes().unwrap(), []);
    }

    #[test]
    fn a_certificate_that_holds_is_kept_and_one_of_another_authority_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let authority = LocalAuthority::open(folder.path().join("a")).unwrap();
        let own = folder.path().join("own");
        let files = authority.keep_server(&own).unwrap();
        let read = || std::fs::read(&files.certificate).unwrap();
        let first = read();
        authority.keep_server(&own).unwrap();
        assert_eq!(read(), first);
        let other = LocalAuthority::open(folder.path().join("b")).unwrap();
        other.keep_server(&own).unwrap();
        assert_ne!(read(), first);
        // A key that is not the certificate's is of no use.
        let second = read();
        std::fs::copy(folder.path().join("a/authority.key"), &files.key).unwrap();
        other.keep_server(&own).unwrap();
        assert_ne!(read(), second);
    }

    #[test]
    fn a_web_certificate_is_made_anew_when_its_names_change() {
        let folder = tempfile::tempdir().unwrap();
        let authority = LocalAuthority::open(folder.path()).unwrap();
        let names =
            |names: &[&str]| -> Vec<String> { names.iter().map(|&name| name.to_owned()).collect() };
        let two = names(&["cp.example", "192.0.2.1"]);
        let files = authority.keep_web(&two, "page", folder.path()).unwrap();
        let first = std::fs::read(&files.certificate).unwrap();
        authority.keep_web(&two, "page", folder.path()).unwrap();
        assert_eq!(std::fs::read(&files.certificate).unwrap(), first);
        let three = names(&["cp.example", "other.example", "192.0.2.1"]);
        authority.keep_web(&three, "page", folder.path()).unwrap();
        let found = authority::look_at(&files.certificate).unwrap();
        assert_eq!(found.names, ["cp.example", "other.example"]);
    }

    #[test]
    fn what_has_ended_is_said_to_have() {
        let found = |ends| Found {
            names: vec!["a".to_owned()],
            certificate: PathBuf::from("a.crt"),
            ends,
        };
        let now = SystemTime::now();
        let hour = Duration::from_hours(1);
        let line = |ends| Listed::of(&found(ends), "node", now).line();
        assert_eq!(line(now + 25 * hour), "node  a  ends in 1 days  a.crt");
        assert_eq!(line(now - hour), "node  a  has ended  a.crt");
    }
}
