//! TLS on both sides: towards applications with our certificate, towards backends with theirs.
//!
//! Nothing here talks the PostgreSQL protocol: whoever calls has already exchanged the request for
//! encryption and its answer, and hands over a stream whose next byte is the handshake's. That
//! caller must also throw away whatever arrived in clear behind the request (CVE-2021-23214).
//!
//! There are no built-in authorities. A database's certificate is signed by its owner's own, and a
//! public authority that vouches for a database server is a mistake more often than a wish.

mod control;
mod verify;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::config::{BackendTls, ClientTls};

pub use control::{ControlStream, ControlTls};

/// The name of the protocol inside, which newer PostgreSQL clients and servers insist on.
const ALPN: &[u8] = b"postgresql";

/// Why TLS could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A PEM file is missing, unreadable or holds something else.
    #[error("{file}: no usable {what}: {cause}")]
    File {
        /// The file.
        file: PathBuf,
        /// What was looked for in it.
        what: &'static str,
        /// What the reader said.
        cause: String,
    },
    /// Certificate and key are readable, but not of each other, or of a kind nobody accepts.
    #[error("{file}: the certificate cannot be used: {cause}")]
    Certificate {
        /// The file.
        file: PathBuf,
        /// What the library said.
        cause: String,
    },
    /// The library itself refused.
    #[error(transparent)]
    Library(#[from] rustls::Error),
}

/// Our certificate, as shown to applications. It can be replaced while connections are open.
#[derive(Debug)]
pub struct ServerTls {
    current: ArcSwap<ServerConfig>,
}

impl ServerTls {
    /// Reads certificate and key.
    ///
    /// # Errors
    /// If a file is missing, or the two do not belong together.
    pub fn load(files: &ClientTls) -> Result<Self, TlsError> {
        Ok(Self { current: ArcSwap::from_pointee(server_config(files)?) })
    }

    /// Reads the files again; connections that are open keep the certificate they saw.
    ///
    /// # Errors
    /// As [`ServerTls::load`]; the old certificate then stays in use.
    pub fn reload(&self, files: &ClientTls) -> Result<(), TlsError> {
        self.current.store(Arc::new(server_config(files)?));
        Ok(())
    }

    /// For the handshake of one connection.
    #[must_use]
    pub fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.current.load_full())
    }
}

/// How to reach one backend through TLS.
#[derive(Clone)]
pub struct BackendConnector {
    connector: TlsConnector,
    host: ServerName<'static>,
}

impl std::fmt::Debug for BackendConnector {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.debug_struct("BackendConnector").field("host", &self.host).finish_non_exhaustive()
    }
}

impl BackendConnector {
    /// Prepares connections to `host`; `None` where they are not encrypted.
    ///
    /// # Errors
    /// If the authority's file cannot be used, or the host's name cannot be verified.
    pub fn new(tls: &BackendTls, host: &str) -> Result<Option<Self>, TlsError> {
        let config = match tls {
            BackendTls::Disable => return Ok(None),
            BackendTls::Require => client_config(verify::anyone()),
            BackendTls::VerifyCa { ca } => client_config(verify::signed(authorities(ca)?)?),
            BackendTls::VerifyFull { ca } => client_config(verify::named(authorities(ca)?)?),
        }?;
        let name = ServerName::try_from(host.to_owned());
        let host = match (name, tls) {
            (Ok(name), _) => name,
            (Err(_), BackendTls::VerifyFull { ca }) => {
                let cause = format!("`{host}` is no name that a certificate can hold");
                return Err(TlsError::Certificate { file: ca.clone(), cause });
            }
            // The name is only a courtesy to the server here.
            (Err(_), _) => ServerName::try_from("backend.invalid").map_err(|_| {
                rustls::Error::General("the placeholder for a host name is not one".into())
            })?,
        };
        Ok(Some(Self { connector: TlsConnector::from(Arc::new(config)), host }))
    }

    /// Shakes hands over a stream on which the server has agreed to encryption.
    ///
    /// # Errors
    /// If the connection breaks or the server's certificate is not accepted.
    pub async fn connect<S>(&self, stream: S) -> io::Result<tokio_rustls::client::TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        self.connector.connect(self.host.clone(), stream).await
    }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn server_config(files: &ClientTls) -> Result<ServerConfig, TlsError> {
    let chain = certificates(&files.cert)?;
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .map_err(|error| unusable(&files.key, "private key", &error))?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| TlsError::Certificate {
            file: files.cert.clone(),
            cause: error.to_string(),
        })?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(config)
}

fn client_config(
    verifier: Arc<dyn rustls::client::danger::ServerCertVerifier>,
) -> Result<ClientConfig, TlsError> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(config)
}

fn authorities(file: &Path) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(file)? {
        store.add(certificate).map_err(|error| TlsError::Certificate {
            file: file.to_owned(),
            cause: error.to_string(),
        })?;
    }
    Ok(store)
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let what = "certificate";
    let found = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| unusable(file, what, &error))?;
    if found.is_empty() {
        let cause = "the file holds none in PEM form".into();
        return Err(TlsError::File { file: file.to_owned(), what, cause });
    }
    Ok(found)
}

fn unusable(file: &Path, what: &'static str, error: &rustls::pki_types::pem::Error) -> TlsError {
    TlsError::File { file: file.to_owned(), what, cause: error.to_string() }
}

#[cfg(test)]
mod tests;
