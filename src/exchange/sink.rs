//! Where answers go.

use std::future::Future;

use bytes::BytesMut;

use super::TextRows;

/// Bytes on their way to an application.
///
/// What has not been flushed can be taken back, which is how a read that dies early is run again
/// without the application noticing.
pub trait Sink: Send {
    /// The buffer that is sent with the next flush.
    fn buffer(&mut self) -> &mut BytesMut;
    /// Sends the buffer. Fails when the application is gone.
    fn flush(&mut self) -> impl Future<Output = Result<(), Gone>> + Send;
    /// How many bytes may wait in the buffer before they are flushed in the middle of an answer.
    fn limit(&self) -> usize;
    /// How often something has been sent: what was sent cannot be taken back.
    fn flushes(&self) -> u64;
    /// Takes note of what the server reports of its session; the client is told at the end of its batch.
    fn report(&mut self, name: &str, value: &str) {
        let _ = (name, value);
    }
    /// Takes note of what a server had to say about the statement besides its answer, for an
    /// application that asks for it later. Nothing is said also: it takes the place of what was said.
    fn remark(&mut self, remarks: TextRows) {
        let _ = remarks;
    }
}

/// A sink for answers that nobody wants to see.
#[derive(Debug, Default)]
pub struct Discard(BytesMut);

impl Sink for Discard {
    fn buffer(&mut self) -> &mut BytesMut {
        self.0.clear();
        &mut self.0
    }

    async fn flush(&mut self) -> Result<(), Gone> {
        Ok(())
    }

    fn limit(&self) -> usize {
        usize::MAX
    }

    fn flushes(&self) -> u64 {
        0
    }
}

/// A sink for an answer that its application gets later, or never.
#[derive(Debug, Default)]
pub struct Gathered(pub BytesMut);

impl Sink for Gathered {
    fn buffer(&mut self) -> &mut BytesMut {
        &mut self.0
    }

    async fn flush(&mut self) -> Result<(), Gone> {
        Ok(())
    }

    fn limit(&self) -> usize {
        usize::MAX
    }

    fn flushes(&self) -> u64 {
        0
    }
}

/// The application closed its connection, or broke the protocol beyond repair.
#[derive(Debug)]
pub struct Gone;
