//! Announced load: `/api/announcements` and `foreshadow announce`; forecasts as JSON.
//!
//! An announcement is checked where it comes in and kept in the store; the forecaster, wherever it
//! runs, follows the store.

use std::path::PathBuf;
use std::process::ExitCode;

use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get};
use axum::{Json, Router};
use bytes::Bytes;
use domain::forecast::InstanceForecast;
use domain::{Announcement, InstanceId};
use forecaster::announced::Job;
use serde::Serialize;
use serde::de::DeserializeOwned;
use store::{Expect, Key, Kind, Transaction};

use crate::cli::{ClientOptions, Output};
use crate::client;
use crate::error::Failure;
use crate::http::Api;

/// Most announcements that are kept.
const MOST: usize = 10_000;

/// The routes that this module answers.
pub fn routes() -> Router<Api> {
    Router::new()
        .route("/api/announcements", get(list).post(put))
        .route("/api/announcements/{id}", delete(withdraw))
        .route("/api/forecasts", get(forecasts))
}

fn unavailable(error: &dyn std::fmt::Display) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, error.to_string()).into_response()
}

async fn all<T: DeserializeOwned + Serialize>(api: &Api, kind: Kind) -> Response {
    match api.store.list(kind).await {
        Ok(records) => {
            let known = records.iter().filter_map(|r| r.parse::<T>().ok());
            Json(known.map(|record| record.value).collect::<Vec<_>>()).into_response()
        }
        Err(error) => unavailable(&error),
    }
}

async fn list(State(api): State<Api>) -> Response {
    all::<Announcement>(&api, Kind::Announcement).await
}

async fn forecasts(State(api): State<Api>) -> Response {
    all::<InstanceForecast>(&api, Kind::Forecast).await
}

async fn put(
    State(api): State<Api>,
    announcement: Result<Json<Announcement>, JsonRejection>,
) -> Response {
    let announcement = match announcement {
        Ok(Json(announcement)) => announcement,
        Err(error) => return (StatusCode::BAD_REQUEST, error.body_text()).into_response(),
    };
    let job = match Job::new(announcement) {
        Ok(job) => job,
        Err(error) => return (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
    };
    match api.store.list(Kind::Announcement).await {
        Ok(known) if known.len() >= MOST => {
            let reason = format!("{MOST} announcements are kept at most; withdraw some");
            return (StatusCode::CONFLICT, reason).into_response();
        }
        Ok(_) => {}
        Err(error) => return unavailable(&error),
    }
    let key = Key::new(Kind::Announcement, job.announcement().id.as_str());
    let put = Transaction::new().put(key, Expect::Any, job.announcement());
    let done = match put {
        Ok(transaction) => api.store.commit(transaction).await,
        Err(error) => return unavailable(&error),
    };
    match done {
        Ok(_) => (StatusCode::CREATED, Json(job.announcement().clone())).into_response(),
        Err(error) => unavailable(&error),
    }
}

async fn withdraw(State(api): State<Api>, Path(id): Path<String>) -> Response {
    let id = match InstanceId::new(id) {
        Ok(id) => id,
        Err(error) => return (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
    };
    let key = Key::new(Kind::Announcement, id.as_str());
    match api.store.get(&key).await {
        Ok(Some(_)) => {}
        Ok(None) => {
            return (
                StatusCode::NOT_FOUND,
                format!("announcement {id} is unknown"),
            )
                .into_response();
        }
        Err(error) => return unavailable(&error),
    }
    let gone = Transaction::new().delete(key, Expect::Any);
    match api.store.commit(gone).await {
        Ok(_) => (StatusCode::OK, format!("announcement {id} is withdrawn")).into_response(),
        Err(error) => unavailable(&error),
    }
}

/// Options of `announce`.
#[derive(Debug, Clone, clap::Args)]
pub struct AnnounceOptions {
    /// A YAML or JSON file with a list of announcements; without one, those known are shown.
    pub file: Option<PathBuf>,
    /// Withdraw this one.
    #[arg(long, conflicts_with = "file")]
    pub withdraw: Option<InstanceId>,
    /// Where to ask.
    #[command(flatten)]
    pub client: ClientOptions,
}

/// `foreshadow announce`.
///
/// # Errors
/// [`Failure::Config`] naming what is wrong in the file, before anything is sent.
pub async fn run(options: AnnounceOptions) -> Result<ExitCode, Failure> {
    let server = &options.client;
    if let Some(id) = options.withdraw {
        let said = client::delete(server, &format!("/api/announcements/{id}")).await?;
        println!("{}", String::from_utf8_lossy(&said));
        return Ok(ExitCode::SUCCESS);
    }
    let Some(file) = options.file else {
        return show(&options.client).await;
    };
    let at = |reason: &dyn std::fmt::Display| {
        Failure::Config(format!("announcements {}: {reason}", file.display()))
    };
    let text = std::fs::read_to_string(&file).map_err(|error| at(&error))?;
    let found: Vec<Announcement> = serde_saphyr::from_str(&text).map_err(|error| at(&error))?;
    let jobs: Result<Vec<Job>, _> = found.into_iter().map(Job::new).collect();
    for job in jobs.map_err(|error| at(&error))? {
        let body = serde_json::to_vec(job.announcement()).map_err(Failure::failed("write JSON"))?;
        client::post(server, "/api/announcements", Bytes::from(body)).await?;
        println!("{} is announced", job.announcement().id);
    }
    Ok(ExitCode::SUCCESS)
}

async fn show(options: &ClientOptions) -> Result<ExitCode, Failure> {
    let body = client::get(options, "/api/announcements").await?;
    if options.output == Output::Json {
        println!("{}", String::from_utf8_lossy(&body));
        return Ok(ExitCode::SUCCESS);
    }
    let known: Vec<Announcement> =
        serde_json::from_slice(&body).map_err(Failure::failed("read the announcements"))?;
    for one in known {
        let instances: Vec<_> = one.instances.iter().map(InstanceId::as_str).collect();
        println!(
            "{}: {} for {} min, {:?}",
            one.id,
            instances.join(", "),
            one.duration_ms / 60_000,
            one.when
        );
    }
    Ok(ExitCode::SUCCESS)
}
