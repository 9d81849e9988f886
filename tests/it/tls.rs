//! The load client over TLS: a server of known timing behind a certificate of our own making.

use std::{net::SocketAddr, path::Path, sync::Arc};

use kvbench::{
    record::{RequestRow, parquet::read_rows},
    serve::known::Mode,
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{ServerConfig, pki_types::PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

/// Our own authority's certificate as PEM, and a server that shows one for 127.0.0.1 signed by it.
fn authority() -> (String, TlsAcceptor) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let leaf = leaf.signed_by(&key, &issuer).unwrap();
    let private = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], private)
        .unwrap();
    (issuer.pem(), TlsAcceptor::from(Arc::new(config)))
}

/// Speaks TLS on a port of its own and passes what it hears to `to`.
fn front(acceptor: TlsAcceptor, to: SocketAddr) -> (tokio::runtime::Runtime, SocketAddr) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let listener = runtime.block_on(tokio::net::TcpListener::bind(("127.0.0.1", 0))).unwrap();
    let address = listener.local_addr().unwrap();
    runtime.spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                // A client that does not trust us goes away here.
                let mut outer = acceptor.accept(socket).await?;
                let mut inner = tokio::net::TcpStream::connect(to).await?;
                tokio::io::copy_bidirectional(&mut outer, &mut inner).await
            });
        }
    });
    (runtime, address)
}

/// Runs eight requests against an address, trusting what `trusted` holds; exit code and rows.
fn run(address: SocketAddr, trusted: &Path) -> (Option<i32>, Vec<RequestRow>) {
    let text = format!(
        r#"
name = "tls"
baseline = "fp16"
repeats = 1
[target.a.engine]
url = "https://{address}"
endpoint = "completions"
model = "known"
method = "fp16"
[method.fp16.fp16]
[workload.words.synthetic]
n_requests = 8
prompt_tokens = {{ fixed = 8 }}
output_tokens = {{ fixed = 4 }}
[load.two.closed]
concurrency = [2]
"#
    );
    let (_work, output, folder) = super::serve::run_scenario(&text, &[("SSL_CERT_FILE", trusted)]);
    (output.status.code(), read_rows(&folder).unwrap())
}

#[test]
fn a_certificate_is_checked_and_streams_arrive() {
    let known = super::client::known(Mode::Independent);
    let behind = known.url.strip_prefix("http://").unwrap().parse().unwrap();
    let (ours, acceptor) = authority();
    let (_runtime, address) = front(acceptor, behind);
    let dir = tempfile::tempdir().unwrap();
    let trusted = dir.path().join("ours.pem");
    std::fs::write(&trusted, ours).unwrap();
    let (_, rows) = run(address, &trusted);
    let measured: Vec<_> = rows.iter().filter(|row| !row.warmup).collect();
    assert_eq!(measured.len(), 8);
    assert!(
        measured.iter().all(|row| row.err.is_none() && row.output_tokens == Some(4)),
        "{rows:?}"
    );
    assert!(rows.iter().any(|row| row.connect_ns.is_some()), "the time to connect is kept");
    let stranger = dir.path().join("stranger.pem");
    std::fs::write(&stranger, authority().0).unwrap();
    let (code, rows) = run(address, &stranger);
    assert_eq!((code, rows.len()), (Some(1), 1));
    let err = rows[0].err.as_deref().unwrap();
    assert!(err.contains("certificate"), "{err}");
}
