//! A connection to the control plane.

use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tonic::transport::{Channel, Endpoint};

use super::client::chain;
use crate::settings::ProxyConfig;

/// How long a connection may take, the proof of both sides included.
const PATIENCE: Duration = Duration::from_secs(3);
/// A control plane that died without a word is noticed within the sum of these.
const KEEPALIVE: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Connects. Gives the reason when that fails.
pub(crate) async fn dial(config: &ProxyConfig) -> Result<Channel, String> {
    let address = config.control_plane;
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|error| chain(&error))?
        .connect_timeout(PATIENCE)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true);
    let Some(identity) = config.identity.clone() else {
        return endpoint.connect().await.map_err(|error| chain(&error));
    };
    let name = ServerName::try_from(identity.server_name.clone())
        .map_err(|_| format!("{:?} is no server name", identity.server_name))?;
    // Read anew, so that certificates that were replaced count from the next connection on.
    let client = tokio::task::spawn_blocking(move || identity.load())
        .await
        .map_err(|error| error.to_string())?
        .map_err(|error| error.to_string())?;
    let connector = TlsConnector::from(Arc::new(client));
    let secured = tower::service_fn(move |_: http::Uri| {
        let (connector, name) = (connector.clone(), name.clone());
        async move {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let stream = connector.connect(name, stream).await?;
            Ok::<_, std::io::Error>(TokioIo::new(stream))
        }
    });
    endpoint
        .connect_with_connector(secured)
        .await
        .map_err(|error| chain(&error))
}
