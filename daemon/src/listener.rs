//! A listener that takes only so many connections at once, from all together and from each client.
//!
//! Whoever reaches a daemon's port could otherwise hold connections until it has no descriptors left, and with that keep it from its work: the
//! plugin from coming back to NRI, the exporter from new pods. One client alone cannot keep a kubelet or Prometheus out either.

use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;
use tracing::{debug, warn};

/// Connections to one port: far more than Prometheus, kubelets and scalers need together.
pub const MAX_CONNECTIONS: usize = 256;
/// Those of one client.
pub const MAX_OF_CLIENT: usize = 32;
/// After an error that is not one connection's, such as that there are no descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// Accepts connections, and closes at once those that are too many.
#[derive(Debug)]
pub struct Limited {
    guests: Arc<Mutex<Guests>>,
    listener: TcpListener,
}

/// How many connections each client has.
#[derive(Debug, Default)]
struct Guests(HashMap<IpAddr, usize>);

/// A connection, which counts until it is dropped.
#[derive(Debug)]
pub struct Connection {
    client: IpAddr,
    guests: Arc<Mutex<Guests>>,
    stream: TcpStream,
}

impl Limited {
    /// Accepts what a listener gets.
    pub fn new(listener: TcpListener) -> Self {
        let guests = Arc::default();
        Self { guests, listener }
    }

    /// The next connection.
    pub async fn next(&self) -> (Connection, SocketAddr) {
        loop {
            match self.listener.accept().await {
                Ok((stream, address)) => {
                    if let Some(connection) = self.admit(stream, address.ip()) {
                        return (connection, address);
                    }
                    debug!(%address, "closed: there are too many connections");
                }
                Err(error) => {
                    warn!(
                        error = &error as &dyn std::error::Error,
                        "cannot accept a connection"
                    );
                    sleep(PAUSE).await;
                }
            }
        }
    }

    fn admit(&self, stream: TcpStream, client: IpAddr) -> Option<Connection> {
        let _ = stream.set_nodelay(true); // only faster
        if !lock(&self.guests).add(client) {
            return None;
        }
        Some(Connection {
            client,
            guests: self.guests.clone(),
            stream,
        })
    }
}

impl Guests {
    /// Counts one more of this client, unless there are too many.
    fn add(&mut self, client: IpAddr) -> bool {
        let all: usize = self.0.values().sum();
        let of_client = self.0.entry(client).or_default();
        if all >= MAX_CONNECTIONS || *of_client >= MAX_OF_CLIENT {
            self.0.retain(|_, count| *count > 0);
            return false;
        }
        *of_client += 1;
        true
    }

    fn remove(&mut self, client: IpAddr) {
        if let Some(count) = self.0.get_mut(&client) {
            *count -= 1;
        }
        self.0.retain(|_, count| *count > 0);
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        lock(&self.guests).remove(self.client);
    }
}

fn lock(guests: &Mutex<Guests>) -> MutexGuard<'_, Guests> {
    guests.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Listener for Limited {
    type Addr = SocketAddr;
    type Io = Connection;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        self.next().await
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

#[cfg(feature = "grpc")]
impl tonic::transport::server::Connected for Connection {
    type ConnectInfo = tonic::transport::server::TcpConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt as _;
    use tokio::net::TcpSocket;

    #[test]
    fn all_clients_together_have_a_limit() {
        let client = |number: usize| IpAddr::from([10, 0, 0, u8::try_from(number / MAX_OF_CLIENT).unwrap()]);
        let mut guests = Guests::default();
        for number in 0..MAX_CONNECTIONS {
            assert!(guests.add(client(number)), "{number}");
        }
        let one_more = client(MAX_CONNECTIONS);
        assert!(!guests.add(one_more));
        guests.remove(client(0));
        assert!(guests.add(one_more));
        for number in 1..MAX_CONNECTIONS {
            guests.remove(client(number));
        }
        guests.remove(one_more);
        assert!(guests.0.is_empty(), "who has gone is forgotten");
    }

    async fn connect(from: [u8; 4], to: SocketAddr) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((from, 0).into()).unwrap();
        socket.connect(to).await.unwrap()
    }

    #[tokio::test]
    async fn a_client_with_too_many_connections_is_closed_and_others_are_served() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let limited = Limited::new(listener);
        let (mut ends, mut taken) = (Vec::new(), Vec::new());
        for _ in 0..MAX_OF_CLIENT {
            ends.push(connect([127, 0, 0, 1], at).await);
            taken.push(limited.next().await.0);
        }
        let mut one_more = connect([127, 0, 0, 1], at).await;
        let _other = connect([127, 0, 0, 2], at).await;
        let (_, next) = limited.next().await;
        assert_eq!(next.ip(), IpAddr::from([127, 0, 0, 2]));
        assert_eq!(one_more.read(&mut [0]).await.unwrap(), 0, "it is closed");
        taken.pop();
        let _again = connect([127, 0, 0, 1], at).await;
        assert_eq!(limited.next().await.1.ip(), IpAddr::from([127, 0, 0, 1]));
    }
}
