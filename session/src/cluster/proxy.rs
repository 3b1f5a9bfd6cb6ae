//! The way to the API server through a proxy: `proxy-url` of the kubeconfig, as kubectl takes it, else `HTTPS_PROXY` and `NO_PROXY`.

use hyper::Uri;
use hyper_util::client::{
    legacy::connect::proxy::{SocksV5, Tunnel},
    proxy::matcher::{Intercept, Matcher},
};
use kube::{Config, config::Kubeconfig};
use thiserror::Error;

/// The proxy that a kubeconfig names for the cluster of a context. One that is no address was refused before.
pub(super) fn named(kubeconfig: &Kubeconfig, context: &str) -> Option<Uri> {
    let named = kubeconfig.contexts.iter().find(|named| named.name == context)?;
    let cluster = &named.context.as_ref()?.cluster;
    let named = kubeconfig.clusters.iter().find(|named| named.name == *cluster)?;
    let proxy = named.cluster.as_ref()?.proxy_url.as_deref()?;
    proxy.parse().ok().filter(|_| !proxy.is_empty())
}

/// A proxy of a kind that is not spoken here.
#[derive(Debug, Error)]
#[error("the proxy at {host} is none of http:// and socks5://")]
pub(super) struct UnknownProxy {
    host: String,
}

/// The proxy for the server, if any. What is named in the kubeconfig has no exceptions.
pub(super) fn of(config: &Config) -> Result<Option<Intercept>, UnknownProxy> {
    let unknown = |proxy: &Uri| UnknownProxy { host: proxy.host().unwrap_or_default().to_owned() };
    let proxy = match &config.proxy_url {
        Some(named) => {
            let all = Matcher::builder().all(named.to_string()).build();
            Some(all.intercept(&config.cluster_url).ok_or_else(|| unknown(named))?)
        }
        None => Matcher::from_env().intercept(&config.cluster_url),
    };
    match &proxy {
        Some(proxy) if !matches!(proxy.uri().scheme_str(), Some("http" | "socks5" | "socks5h")) => {
            Err(unknown(proxy.uri()))
        }
        _ => Ok(proxy),
    }
}

/// Connections through an HTTP proxy, by CONNECT.
pub(super) fn tunnel<C>(proxy: &Intercept, connector: C) -> Tunnel<C> {
    let tunnel = Tunnel::new(proxy.uri().clone(), connector);
    match proxy.basic_auth() {
        Some(auth) => tunnel.with_auth(auth.clone()),
        None => tunnel,
    }
}

/// Connections through a SOCKS5 proxy, which also resolves the server's name.
pub(super) fn socks<C>(proxy: &Intercept, connector: C) -> SocksV5<C> {
    let socks = SocksV5::new(proxy.uri().clone(), connector);
    match proxy.raw_auth() {
        Some((user, password)) => socks.with_auth(user.to_owned(), password.to_owned()),
        None => socks,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kubeconfig_names_the_proxy_of_a_cluster() {
        let kubeconfig = Kubeconfig::from_yaml(
            "clusters:\n\
             - {name: far, cluster: {server: 'https://far:6443', proxy-url: 'http://ann:p%40ss@proxy:3128'}}\n\
             - {name: near, cluster: {server: 'https://near:6443'}}\n\
             contexts:\n\
             - {name: a, context: {cluster: far, user: u}}\n\
             - {name: b, context: {cluster: near, user: u}}\n",
        )
        .unwrap();
        assert_eq!(named(&kubeconfig, "b"), None);
        let proxy = named(&kubeconfig, "a");
        assert!(proxy.is_some());
        let mut config = Config::new("https://far:6443".parse().unwrap());
        config.proxy_url = proxy;
        let proxy = of(&config).unwrap().unwrap();
        assert_eq!(proxy.uri().authority().unwrap(), "proxy:3128");
        // ann:p@ss
        assert_eq!(proxy.basic_auth().unwrap(), "Basic YW5uOnBAc3M=");
        for unknown in ["ftp://proxy:1", "https://proxy:1"] {
            config.proxy_url = Some(unknown.parse().unwrap());
            assert!(of(&config).is_err(), "{unknown}");
        }
    }
}
