//! Header fields of one connection.

use http::{HeaderMap, HeaderValue};

use super::headers;

#[test]
fn what_concerns_one_connection_is_taken_away_and_the_rest_stays() {
    let mut fields = HeaderMap::new();
    for (name, value) in [
        ("connection", "X-One, close,, x-two"),
        ("x-one", "1"),
        ("x-two", "2"),
        ("x-three", "3"),
        ("keep-alive", "timeout=5"),
        ("te", "trailers"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "h2c"),
    ] {
        fields.insert(name, HeaderValue::from_static(value));
    }
    headers::strip_hop_by_hop(&mut fields);
    assert_eq!(
        fields
            .keys()
            .map(http::HeaderName::as_str)
            .collect::<Vec<_>>(),
        ["x-three"]
    );
}

#[test]
fn the_client_is_appended_to_those_it_spoke_for() {
    let mut fields = HeaderMap::new();
    let client = "::ffff:10.0.0.9".parse().unwrap();
    assert_eq!(headers::forwarded_for(&fields, client).unwrap(), "10.0.0.9");
    fields.append("x-forwarded-for", HeaderValue::from_static("10.0.0.1"));
    fields.append("x-forwarded-for", HeaderValue::from_static("10.0.0.2"));
    let chain = headers::forwarded_for(&fields, client).unwrap();
    assert_eq!(chain, "10.0.0.1, 10.0.0.2, 10.0.0.9");
}
