use super::*;

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/tls/testdata").join(name)
}

fn ours() -> ClientTls {
    ClientTls { cert: file("server.crt"), key: file("server.key"), required: true }
}

/// Shakes hands in memory with the server of the test data, and passes one word across.
async fn handshake(tls: &BackendTls, host: &str) -> io::Result<()> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let connector = BackendConnector::new(tls, host).expect("usable").expect("encrypted");
    let server = ServerTls::load(&ours()).expect("loads");
    let (near, far) = tokio::io::duplex(1 << 16);
    let answer = async {
        let mut stream = server.acceptor().accept(far).await?;
        stream.write_all(b"hello").await?;
        stream.shutdown().await
    };
    let question = async {
        let mut stream = connector.connect(near).await?;
        let mut word = [0; 5];
        stream.read_exact(&mut word).await?;
        assert_eq!(&word, b"hello");
        Ok(())
    };
    let (_, asked) = tokio::join!(answer, question);
    asked
}

#[tokio::test]
async fn each_mode_trusts_whom_it_says() {
    let ca = file("ca.crt");
    let other = file("other-ca.crt");
    let full = BackendTls::VerifyFull { ca: ca.clone() };
    handshake(&full, "db1").await.expect("signed and named");
    handshake(&full, "127.0.0.1").await.expect("signed, named by address");
    handshake(&full, "db2").await.expect_err("signed for another name");
    let signed = BackendTls::VerifyCa { ca };
    handshake(&signed, "db2").await.expect("signed is enough");
    let stranger = BackendTls::VerifyCa { ca: other.clone() };
    handshake(&stranger, "db1").await.expect_err("signed by another authority");
    handshake(&stranger, "db2").await.expect_err("signed by another authority, for another name");
    handshake(&BackendTls::VerifyFull { ca: other }, "db1").await.expect_err("another authority");
    handshake(&BackendTls::Require, "any_thing").await.expect("encrypted is enough");
    handshake(&BackendTls::Require, "not a name").await.expect("the name does not matter");
}

#[test]
fn without_encryption_there_is_no_connector() {
    assert!(BackendConnector::new(&BackendTls::Disable, "db1").expect("fine").is_none());
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let missing = ClientTls { cert: file("nowhere.crt"), ..ours() };
    let error = ServerTls::load(&missing).expect_err("missing").to_string();
    assert!(error.contains("nowhere.crt: no usable certificate"), "{error}");
    let swapped = ClientTls { key: file("server.crt"), ..ours() };
    let error = ServerTls::load(&swapped).expect_err("no key").to_string();
    assert!(error.contains("server.crt: no usable private key"), "{error}");
    let foreign = ClientTls { cert: file("ca.crt"), ..ours() };
    let error = ServerTls::load(&foreign).expect_err("another key").to_string();
    assert!(error.contains("ca.crt: the certificate cannot be used"), "{error}");
}

#[test]
fn a_failed_reload_keeps_the_certificate() {
    let server = ServerTls::load(&ours()).expect("loads");
    let before = Arc::as_ptr(&server.current.load_full());
    let missing = ClientTls { cert: file("nowhere.crt"), ..ours() };
    server.reload(&missing).expect_err("missing");
    assert_eq!(before, Arc::as_ptr(&server.current.load_full()));
    server.reload(&ours()).expect("fine");
    assert_ne!(before, Arc::as_ptr(&server.current.load_full()));
}
