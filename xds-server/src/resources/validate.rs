//! What a data plane would refuse is not published: a refusal shall be a surprise.
//!
//! The resources of one service are checked against each other and against what Envoy 1.40 was seen
//! to refuse. Pure.

use std::collections::BTreeSet;

use api::envoy::envoy::config::route::v3::{Route, route::Action, route_action::ClusterSpecifier};

use super::service::ServiceResources;

/// The whole of a route's weights.
const WHOLE: u64 = 10_000;
/// Longest domain that is published.
const MAX_DOMAIN: usize = 253;

/// Why resources are not published.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// A route names a cluster that is not there.
    #[error("route {route} names cluster {cluster:?}, which is not there")]
    UnknownCluster {
        /// The route.
        route: String,
        /// The cluster.
        cluster: String,
    },
    /// The weights of a route do not make the whole.
    #[error("route {route}: its weights make {sum}; they must make {WHOLE}")]
    Weights {
        /// The route.
        route: String,
        /// What they make.
        sum: u64,
    },
    /// A route has no target.
    #[error("route {route} has no target cluster")]
    NoTarget {
        /// The route.
        route: String,
    },
    /// A domain that no data plane accepts.
    #[error(
        "domain {domain:?}: use 1 to {MAX_DOMAIN} characters, without space or control characters, with '*' at one end at most"
    )]
    Domain {
        /// The domain.
        domain: String,
    },
    /// A domain twice.
    #[error("domain {domain:?} is there twice")]
    DomainTwice {
        /// The domain.
        domain: String,
    },
    /// A header that is none.
    #[error("header {header:?} is no header name: use lower case letters, digits and '-'")]
    Header {
        /// The header.
        header: String,
    },
    /// An endpoint that nobody can connect to.
    #[error("cluster {cluster}: endpoint {endpoint} cannot be connected to")]
    Endpoint {
        /// The cluster.
        cluster: String,
        /// The endpoint.
        endpoint: String,
    },
}

/// Checks the resources of a service.
///
/// # Errors
/// The first thing that a data plane would refuse.
pub fn check(resources: &ServiceResources) -> Result<(), Invalid> {
    let host = &resources.virtual_host;
    check_domains(&host.domains)?;
    for route in &host.routes {
        check_route(route, resources)?;
    }
    for (name, parts) in &resources.clusters {
        if let Some(endpoint) = parts
            .endpoints
            .iter()
            .find(|endpoint| endpoint.0.port() == 0 || endpoint.0.ip().is_unspecified())
        {
            return Err(Invalid::Endpoint {
                cluster: name.to_string(),
                endpoint: endpoint.0.to_string(),
            });
        }
    }
    Ok(())
}

fn check_domains(domains: &[String]) -> Result<(), Invalid> {
    let mut seen = BTreeSet::new();
    for domain in domains {
        let inner = domain.trim_matches('*');
        let stars = domain.len() - inner.len();
        let well_formed = !domain.is_empty()
            && domain.len() <= MAX_DOMAIN
            && stars <= 1
            && !inner.contains('*')
            && !domain.chars().any(|c| c.is_control() || c.is_whitespace());
        if !well_formed {
            return Err(Invalid::Domain {
                domain: domain.chars().take(80).collect(),
            });
        }
        if !seen.insert(domain.to_ascii_lowercase()) {
            return Err(Invalid::DomainTwice {
                domain: domain.clone(),
            });
        }
    }
    Ok(())
}

fn check_route(route: &Route, resources: &ServiceResources) -> Result<(), Invalid> {
    let name = || route.name.clone();
    let Some(Action::Route(action)) = &route.action else {
        return Err(Invalid::NoTarget { route: name() });
    };
    let known = |cluster: &str| {
        if resources.clusters.contains_key(cluster) {
            return Ok(());
        }
        Err(Invalid::UnknownCluster {
            route: name(),
            cluster: cluster.to_owned(),
        })
    };
    match &action.cluster_specifier {
        Some(ClusterSpecifier::Cluster(cluster)) => known(cluster)?,
        Some(ClusterSpecifier::WeightedClusters(weighted)) => {
            let mut sum = 0;
            for cluster in &weighted.clusters {
                known(&cluster.name)?;
                sum += cluster.weight.map_or(0, |weight| u64::from(weight.value));
            }
            if sum != WHOLE {
                return Err(Invalid::Weights { route: name(), sum });
            }
        }
        Some(_) | None => return Err(Invalid::NoTarget { route: name() }),
    }
    for mirror in &action.request_mirror_policies {
        known(&mirror.cluster)?;
    }
    check_hash(route)
}

/// A hash policy with a header that is none is refused by Envoy.
fn check_hash(route: &Route) -> Result<(), Invalid> {
    use api::envoy::envoy::config::route::v3::route_action::hash_policy::PolicySpecifier;
    let Some(Action::Route(action)) = &route.action else {
        return Ok(());
    };
    for policy in &action.hash_policy {
        if let Some(PolicySpecifier::Header(header)) = &policy.policy_specifier {
            let name = &header.header_name;
            let allowed =
                |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_:.".contains(c);
            if name.is_empty() || !name.to_ascii_lowercase().chars().all(allowed) {
                return Err(Invalid::Header {
                    header: name.chars().take(80).collect(),
                });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use api::envoy::envoy::config::route::v3::{
        RouteAction, VirtualHost, WeightedCluster, weighted_cluster::ClusterWeight,
    };
    use api::envoy::google::protobuf::UInt32Value;

    use super::*;

    fn to(specifier: ClusterSpecifier) -> ServiceResources {
        ServiceResources {
            clusters: std::collections::BTreeMap::new(),
            virtual_host: VirtualHost {
                name: "shop".to_owned(),
                domains: vec!["shop".to_owned()],
                routes: vec![Route {
                    name: "shop/all".to_owned(),
                    action: Some(Action::Route(RouteAction {
                        cluster_specifier: Some(specifier),
                        ..RouteAction::default()
                    })),
                    ..Route::default()
                }],
                ..VirtualHost::default()
            },
            named: BTreeSet::new(),
        }
    }

    fn refused(resources: &ServiceResources) -> String {
        check(resources).unwrap_err().to_string()
    }

    #[test]
    fn a_route_to_a_cluster_that_is_not_there_is_refused_by_both_names() {
        let words = refused(&to(ClusterSpecifier::Cluster("gone".to_owned())));
        assert!(
            words.contains("shop/all") && words.contains("gone"),
            "{words}"
        );
    }

    #[test]
    fn weights_that_do_not_make_the_whole_are_refused_with_their_sum() {
        let weight = |value| ClusterWeight {
            name: "shop".to_owned(),
            weight: Some(UInt32Value { value }),
            ..ClusterWeight::default()
        };
        let mut resources = to(ClusterSpecifier::WeightedClusters(WeightedCluster {
            clusters: vec![weight(9_000), weight(999)],
            ..WeightedCluster::default()
        }));
        let parts = super::super::service::ClusterParts {
            cluster: std::sync::Arc::new(super::super::bare_cluster("shop")),
            endpoints: BTreeSet::new(),
        };
        resources.clusters.insert("shop".into(), parts);
        assert!(refused(&resources).contains("9999"));
    }

    #[test]
    fn domains_that_envoy_refuses_are_refused_here() {
        for bad in ["", "a b", "a*b", "*.a.*", "a\u{0}b", &"a".repeat(254)] {
            assert!(check_domains(&[bad.to_owned()]).is_err(), "{bad:?}");
        }
        let twice = ["Shop".to_owned(), "shop".to_owned()];
        assert!(check_domains(&twice).is_err());
        let good = ["*", "*.shop.example.com", "shop:*", "shop.example.com:80"];
        assert_eq!(check_domains(&good.map(ToOwned::to_owned)), Ok(()));
    }
}
