//! Foreshadow in one binary: the command line, the all-in-one control plane, the demo and its
//! workload and load.

pub mod access;
pub mod announce;
pub mod certs;
pub mod cli;
pub mod client;
pub mod config;
pub mod control;
pub mod demo;
pub mod door;
pub mod error;
pub mod forecasting;
pub mod gc;
pub mod grpc;
pub mod health;
pub mod http;
pub mod ingest;
pub mod keyring;
mod lines;
pub mod load;
pub mod metrics;
pub mod push;
pub mod ramp;
pub mod security;
pub mod simulate;
pub mod status;
pub mod storage;
pub mod webhooks;
pub mod workload;

use std::process::ExitCode;

use cli::{Cli, Command, ProxyOptions, ServeOptions};
use error::Failure;
use migrator::saga::ramp::Word;

/// Runs a command to its end.
///
/// # Errors
/// [`Failure`], which knows its exit code.
pub fn run(cli: Cli) -> Result<ExitCode, Failure> {
    match cli.command {
        Command::Proxy(options) => {
            log("warn");
            proxy_process(options)
        }
        Command::Demo(options) => {
            log("error");
            block_on(demo::run(options))
        }
        Command::Serve(options) => {
            log("info");
            block_on(serve(options))
        }
        Command::Status(options) => block_on(client::status(options)),
        Command::Plan(options) => block_on(client::plan(options)),
        Command::ReplayPlan(options) => block_on(client::replay_plan(options)),
        Command::Isolate(options) => block_on(client::isolate(options, false)),
        Command::Evacuate(options) => block_on(client::isolate(options, true)),
        Command::DeIsolate(options) => block_on(client::release(options)),
        Command::Explain(options) => block_on(client::explain(options)),
        Command::Move(options) => block_on(client::order(options)),
        Command::Abort(options) => block_on(client::tell(options, "abort")),
        Command::Retry(options) => block_on(client::tell(options, "retry")),
        Command::Rollback(options) => block_on(client::tell(options, "rollback")),
        Command::Pause(options) => block_on(ramp::tell(options, Word::Pause)),
        Command::Freeze(options) => block_on(ramp::tell(options, Word::Freeze)),
        Command::Resume(options) => block_on(ramp::tell(options, Word::Resume)),
        Command::Step(options) => block_on(ramp::tell(options, Word::Step)),
        Command::Promote(options) => block_on(ramp::tell(options, Word::Promote)),
        Command::Replay(options) => block_on(ramp::replay(options)),
        Command::SimulateRamp(options) => ramp::simulate(&options),
        Command::Simulate(options) => {
            log("error");
            simulate::run(&options)
        }
        Command::Gc(options) => block_on(gc::run(options)),
        Command::Forecast(options) => forecasting::forecast(&options),
        Command::Backtest(options) => forecasting::backtest(&options),
        Command::Models(options) => forecasting::models(&options),
        Command::Push(options) => block_on(push::run(options)),
        Command::Announce(options) => block_on(announce::run(options)),
        Command::Certs(options) => certs::run(options),
        Command::Schema => {
            print!("{}", config::schema()?);
            Ok(ExitCode::SUCCESS)
        }
        Command::Workload(options) => {
            log("warn");
            block_on(async {
                workload::serve(options)
                    .await
                    .map_err(Failure::failed("serve the workload"))?;
                Ok(ExitCode::SUCCESS)
            })
        }
    }
}

/// Sends logs to the standard error; `RUST_LOG` says how much.
fn log(default: &str) {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(default));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_writer(std::io::stderr)
        .init();
}

fn block_on<F: Future<Output = Result<ExitCode, Failure>>>(work: F) -> Result<ExitCode, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(Failure::failed("start the runtime"))?
        .block_on(work)
}

/// Ends when the process is asked to.
///
/// # Errors
/// When signals cannot be listened to.
pub async fn asked_to_stop() -> Result<(), Failure> {
    use tokio::signal::unix::{SignalKind, signal};
    let failed = Failure::failed::<std::io::Error>("listen to signals");
    let mut interrupt = signal(SignalKind::interrupt()).map_err(&failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(&failed)?;
    tokio::select! {
        biased;
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}

async fn serve(options: ServeOptions) -> Result<ExitCode, Failure> {
    let mut config = config::Config::load(&options.config)?;
    config.security.xds_plaintext |= options.insecure_plaintext;
    let control = control::ControlPlane::start(&config, &Vec::new()).await?;
    let secured = if config.security.xds_plaintext {
        "plain text"
    } else {
        "mutual TLS"
    };
    let scheme = config.security.page.as_ref().map_or("http", |_| "https");
    println!(
        "xDS on {} ({secured}), page on {scheme}://{}",
        control.xds, control.page
    );
    if let Some(admin) = control.xds_admin {
        println!("health, metrics and progress of xDS on http://{admin}");
    }
    asked_to_stop().await?;
    control.shutdown().await;
    Ok(ExitCode::SUCCESS)
}

/// By what the proxy proves itself; nothing when it was told to speak plain text.
fn identity(options: &ProxyOptions) -> Result<Option<proxy::Identity>, Failure> {
    let server_name = options.server_name.clone();
    if let Some(folder) = &options.identity {
        let files = xds_server::authority::NodeFiles::beside(folder, &options.node);
        return Ok(Some(proxy::Identity {
            certificate: files.certificate,
            key: files.key,
            authority: files.authority,
            server_name,
        }));
    }
    if let (Some(certificate), Some(key), Some(authority)) =
        (&options.certificate, &options.key, &options.authority)
    {
        return Ok(Some(proxy::Identity {
            certificate: certificate.clone(),
            key: key.clone(),
            authority: authority.clone(),
            server_name,
        }));
    }
    let address = options.control_plane;
    if !address.ip().is_loopback() && !options.insecure_remote {
        return Err(Failure::Config(format!(
            "--insecure-plaintext with --control-plane {address}; allowed is an address of this machine, as \
             127.0.0.1: give --identity, or say --insecure-remote"
        )));
    }
    Ok(None)
}

fn proxy_process(options: ProxyOptions) -> Result<ExitCode, Failure> {
    let proven = identity(&options)?;
    let mut config = proxy::ProxyConfig::new(options.node, options.listen, options.control_plane);
    config.identity = proven;
    config.admin = options.admin;
    config.last_good = options.last_good;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    std::thread::spawn(move || {
        let asked = block_on(async {
            asked_to_stop().await?;
            Ok(ExitCode::SUCCESS)
        });
        if asked.is_ok() {
            // The receiver is gone only when the proxy has ended already.
            let _ = stop.send(());
        }
    });
    let shutdown = async move {
        let _ = stopped.await;
    };
    proxy::run(config, shutdown).map_err(|error| match error {
        proxy::ProxyError::Identity { .. } => Failure::Config(error.to_string()),
        proxy::ProxyError::Bind { .. } | proxy::ProxyError::Thread(_) | proxy::ProxyError::Died => {
            Failure::Unavailable(format!("cannot run the proxy: {error}"))
        }
    })?;
    Ok(ExitCode::SUCCESS)
}
