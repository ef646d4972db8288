//! Foreshadow in one binary: the command line, the all-in-one control plane, the demo and its
//! workload and load.

pub mod announce;
pub mod cli;
pub mod client;
pub mod config;
pub mod control;
pub mod demo;
pub mod error;
pub mod forecasting;
pub mod gc;
pub mod http;
mod lines;
pub mod load;
pub mod ramp;
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
        Command::Announce(options) => block_on(announce::run(options)),
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
    let config = config::Config::load(&options.config)?;
    let control = control::ControlPlane::start(&config, &Vec::new()).await?;
    println!("xDS on {}, page on http://{}", control.xds, control.page);
    asked_to_stop().await?;
    control.shutdown().await;
    Ok(ExitCode::SUCCESS)
}

fn proxy_process(options: ProxyOptions) -> Result<ExitCode, Failure> {
    let mut config = proxy::ProxyConfig::new(options.node, options.listen, options.control_plane);
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
    proxy::run(config, shutdown).map_err(Failure::unavailable("run the proxy"))?;
    Ok(ExitCode::SUCCESS)
}
