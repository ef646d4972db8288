//! Responses as bytes. A body is encoded once and shared by every stream that gets it; only the
//! nonce is a stream's own, and is appended.

use std::collections::HashMap;

use api::envoy::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
    Resource as WireResource,
};
use api::envoy::google::protobuf::{Any, Duration};
use bytes::{Bytes, BytesMut};
use prost::Message;
use prost::encoding;
use tonic::Status;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

use crate::resources::{Resource, ResourceType, Version};
use crate::stream::{Protocol, Response};

/// Number of the nonce's field, in both forms.
const NONCE: u32 = 5;
/// Bodies that are remembered, and how many bytes of them.
const MAX_BODIES: usize = 256;
const MAX_BYTES: usize = 64 * 1024 * 1024;

/// A response on its way to a stream.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    body: Bytes,
    nonce: Box<str>,
}

impl Frame {
    /// How many bytes it has on the wire.
    pub(crate) fn len(&self) -> usize {
        self.body.len() + self.nonce.len() + 2
    }

    fn put(&self, mut into: impl bytes::BufMut) {
        into.put_slice(&self.body);
        encoding::string::encode(NONCE, &String::from(&*self.nonce), &mut into);
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Key {
    protocol: Protocol,
    kind: ResourceType,
    version: Version,
    count: usize,
    removed: Vec<std::sync::Arc<str>>,
    ttl: Option<u32>,
    is_heartbeat: bool,
}

/// Bodies that were encoded lately.
#[derive(Debug, Default)]
pub(crate) struct Bodies {
    known: HashMap<Key, Bytes>,
    bytes: usize,
}

impl Bodies {
    /// The response as bytes.
    pub(crate) fn frame(&mut self, protocol: Protocol, response: &Response) -> Frame {
        let key = Key {
            protocol,
            kind: response.kind,
            version: response.version,
            count: response.resources.len(),
            removed: response.removed.clone(),
            ttl: response.ttl,
            is_heartbeat: response.is_heartbeat,
        };
        let nonce = response.nonce.clone().into_boxed_str();
        if let Some(body) = self.known.get(&key) {
            let body = body.clone();
            return Frame { body, nonce };
        }
        let body = encode(protocol, response);
        if self.known.len() >= MAX_BODIES || self.bytes + body.len() > MAX_BYTES {
            self.known.clear();
            self.bytes = 0;
        }
        self.bytes += body.len();
        self.known.insert(key, body.clone());
        Frame { body, nonce }
    }
}

/// Everything but the nonce.
fn encode(protocol: Protocol, response: &Response) -> Bytes {
    let mut bytes = BytesMut::new();
    let size: usize = response
        .resources
        .iter()
        .map(|resource| resource.any.value.len() + resource.any.type_url.len() + 64)
        .sum();
    bytes.reserve(size + 128);
    match protocol {
        Protocol::Delta => delta(response).encode(&mut bytes),
        Protocol::StateOfTheWorld => world(response).encode(&mut bytes),
    }
    // A buffer that grows as needed is never too small.
    .unwrap_or_default();
    bytes.freeze()
}

fn wrapped(resource: &Resource, ttl: Option<u32>, is_heartbeat: bool) -> WireResource {
    WireResource {
        name: resource.name.to_string(),
        version: resource.version.to_string(),
        resource: (!is_heartbeat).then(|| resource.any.clone()),
        ttl: ttl.map(|seconds| Duration {
            seconds: i64::from(seconds),
            nanos: 0,
        }),
        ..WireResource::default()
    }
}

fn world(response: &Response) -> DiscoveryResponse {
    let (ttl, is_heartbeat) = (response.ttl, response.is_heartbeat);
    let any = |resource: &std::sync::Arc<Resource>| {
        if ttl.is_none() {
            return resource.any.clone();
        }
        // Only in its wrapper a resource can have a time to live.
        Any {
            type_url: api::xds::WRAPPER.to_owned(),
            value: wrapped(resource, ttl, is_heartbeat).encode_to_vec(),
        }
    };
    DiscoveryResponse {
        version_info: response.version.to_string(),
        resources: response.resources.iter().map(any).collect(),
        type_url: response.kind.url().to_owned(),
        ..DiscoveryResponse::default()
    }
}

fn delta(response: &Response) -> DeltaDiscoveryResponse {
    let resources = response
        .resources
        .iter()
        .map(|resource| wrapped(resource, response.ttl, response.is_heartbeat));
    DeltaDiscoveryResponse {
        system_version_info: response.version.to_string(),
        resources: resources.collect(),
        type_url: response.kind.url().to_owned(),
        removed_resources: response.removed.iter().map(ToString::to_string).collect(),
        ..DeltaDiscoveryResponse::default()
    }
}

/// Requests of one form in, frames out.
#[derive(Debug)]
pub(crate) struct DiscoveryCodec<R>(std::marker::PhantomData<R>);

impl<R> Default for DiscoveryCodec<R> {
    fn default() -> Self {
        Self(std::marker::PhantomData)
    }
}

/// Writes frames.
#[derive(Debug)]
pub(crate) struct FrameEncoder;

/// Reads requests.
#[derive(Debug)]
pub(crate) struct RequestDecoder<R>(std::marker::PhantomData<R>);

/// A request that the codec reads.
pub(crate) trait Readable: Message + Default + Send + 'static {}
impl Readable for DiscoveryRequest {}
impl Readable for DeltaDiscoveryRequest {}

impl<R: Readable> Codec for DiscoveryCodec<R> {
    type Encode = Frame;
    type Decode = R;
    type Encoder = FrameEncoder;
    type Decoder = RequestDecoder<R>;

    fn encoder(&mut self) -> FrameEncoder {
        FrameEncoder
    }

    fn decoder(&mut self) -> RequestDecoder<R> {
        RequestDecoder(std::marker::PhantomData)
    }
}

/// A stream that is silent most of the time keeps no large buffers.
fn small_buffers() -> BufferSettings {
    BufferSettings::new(1_024, 32 * 1_024)
}

impl Encoder for FrameEncoder {
    type Item = Frame;
    type Error = Status;

    fn encode(&mut self, frame: Frame, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.reserve(frame.len());
        frame.put(into);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        small_buffers()
    }
}

impl<R: Readable> Decoder for RequestDecoder<R> {
    type Item = R;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<R>, Status> {
        R::decode(from)
            .map(Some)
            .map_err(|error| Status::invalid_argument(format!("not a discovery request: {error}")))
    }

    fn buffer_settings(&self) -> BufferSettings {
        small_buffers()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::resources::bare_cluster;

    fn response(nonce: &str, ttl: Option<u32>) -> Response {
        let resources = vec![Arc::new(bare_cluster("shop"))];
        Response {
            kind: ResourceType::Cluster,
            nonce: nonce.to_owned(),
            version: Version::of(b"x"),
            resources,
            removed: vec![Arc::from("gone")],
            ttl,
            is_heartbeat: false,
        }
    }

    fn bytes(frame: &Frame) -> Vec<u8> {
        let mut bytes = Vec::new();
        frame.put(&mut bytes);
        bytes
    }

    #[test]
    fn a_frame_reads_as_the_response_with_its_nonce() {
        let mut bodies = Bodies::default();
        let frame = bodies.frame(Protocol::Delta, &response("7", None));
        let read = DeltaDiscoveryResponse::decode(&*bytes(&frame)).unwrap();
        assert_eq!((read.nonce.as_str(), read.resources.len()), ("7", 1));
        assert_eq!(read.removed_resources, ["gone"]);
        assert_eq!(read.resources[0].name, "shop");
        let world = bodies.frame(Protocol::StateOfTheWorld, &response("8", None));
        let read = DiscoveryResponse::decode(&*bytes(&world)).unwrap();
        assert_eq!((read.nonce.as_str(), read.resources.len()), ("8", 1));
        assert_eq!(read.resources[0].type_url, api::xds::CLUSTER);
    }

    #[test]
    fn a_body_is_encoded_once_for_all_streams() {
        let mut bodies = Bodies::default();
        let first = bodies.frame(Protocol::Delta, &response("1", None));
        let second = bodies.frame(Protocol::Delta, &response("2", None));
        assert_eq!(first.body.as_ptr(), second.body.as_ptr());
        assert_ne!(bytes(&first), bytes(&second));
    }

    #[test]
    fn a_heartbeat_has_no_body_and_a_time_to_live_in_both_forms() {
        let mut bodies = Bodies::default();
        let mut beat = response("1", Some(9));
        beat.is_heartbeat = true;
        let frame = bodies.frame(Protocol::StateOfTheWorld, &beat);
        let read = DiscoveryResponse::decode(&*bytes(&frame)).unwrap();
        assert_eq!(read.resources[0].type_url, api::xds::WRAPPER);
        let wrapped = WireResource::decode(&*read.resources[0].value).unwrap();
        assert_eq!((wrapped.name.as_str(), wrapped.resource), ("shop", None));
        assert_eq!(wrapped.ttl.unwrap().seconds, 9);
        let frame = bodies.frame(Protocol::Delta, &beat);
        let read = DeltaDiscoveryResponse::decode(&*bytes(&frame)).unwrap();
        assert_eq!(read.resources[0].resource, None);
    }
}
