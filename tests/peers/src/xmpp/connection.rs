//! A logged-in connection.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, bail, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::{Element, SM, scanner::Scanner};

/// The login of one connection, while 64 do so at once on a busy machine.
const LOGIN_WITHIN: Duration = Duration::from_secs(60);
/// Fifteen thousand connections have such a buffer each.
const READ_AT_ONCE: usize = 4 * 1024;

/// Who logs in where.
#[derive(Debug, Clone, Copy)]
pub(crate) struct User<'a> {
    pub(crate) host: &'a str,
    pub(crate) name: &'a str,
    pub(crate) password: &'a str,
}

/// A stream whose elements are read one by one, and what is to be written to it at once.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    scanner: Scanner,
    /// Written by [`flush`](Self::flush).
    pub(crate) out: Vec<u8>,
}

impl Connection {
    /// Connects, authenticates (PLAIN), binds a resource, becomes available, and turns stream management on. What is counted begins here.
    ///
    /// # Errors
    /// If the server refuses a step, or is not done after a minute.
    pub(crate) async fn login(address: SocketAddr, user: User<'_>) -> anyhow::Result<Self> {
        timeout(LOGIN_WITHIN, Self::steps(address, user)).await.context("the login takes too long")?
    }

    async fn open(address: SocketAddr, host: &str) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let mut connection = Self { stream, scanner: Scanner::default(), out: Vec::new() };
        connection.restart(host).await?;
        Ok(connection)
    }

    async fn steps(address: SocketAddr, user: User<'_>) -> anyhow::Result<Self> {
        let User { host, name, password } = user;
        let mut connection = Self::open(address, host).await?;
        let proof = STANDARD.encode(format!("\0{name}\0{password}"));
        let auth = format!("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>{proof}</auth>");
        connection.ask(&auth, Element::Success).await.context("login")?;
        connection.scanner = Scanner::default();
        connection.restart(host).await?;
        let bind = "<iq type='set' id='bind'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><resource>bench</resource></bind></iq>";
        connection.ask(bind, Element::Result).await.context("bind")?;
        let session = "<iq type='set' id='session'><session xmlns='urn:ietf:params:xml:ns:xmpp-session'/></iq>";
        connection.ask(session, Element::Result).await.context("session")?;
        // A resource sees its own presence come back: then messages to the bare address find it.
        connection.ask("<presence/>", Element::Stanza).await.context("presence")?;
        connection.ask(&format!("<enable xmlns='{SM}'/>"), Element::Enabled).await.context("stream management")?;
        Ok(connection)
    }

    async fn restart(&mut self, host: &str) -> anyhow::Result<()> {
        let opening = format!(
            "<?xml version='1.0'?><stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' to='{host}' version='1.0'>"
        );
        self.ask(&opening, Element::Opened).await.context("stream")?;
        self.until(Element::Features).await.context("features")
    }

    async fn ask(&mut self, text: &str, wanted: Element) -> anyhow::Result<()> {
        self.out.extend_from_slice(text.as_bytes());
        self.flush().await?;
        self.until(wanted).await
    }

    async fn until(&mut self, wanted: Element) -> anyhow::Result<()> {
        loop {
            while let Some(element) = self.next()? {
                if element == wanted {
                    return Ok(());
                }
                ensure!(element != Element::Refused, "the server refused");
            }
            self.read().await?;
        }
    }

    /// The next element that has arrived, if one has.
    ///
    /// # Errors
    /// If what arrives is no XMPP stream.
    pub(crate) fn next(&mut self) -> anyhow::Result<Option<Element>> {
        Ok(self.scanner.next()?.map(Element::read))
    }

    /// Waits for input. May be given up and begun again.
    ///
    /// # Errors
    /// If the connection has ended.
    pub(crate) async fn read(&mut self) -> anyhow::Result<()> {
        let input = self.scanner.input();
        input.reserve(READ_AT_ONCE);
        if self.stream.read_buf(input).await? == 0 {
            bail!("the server closed the connection");
        }
        Ok(())
    }

    /// Writes what is to be written.
    ///
    /// # Errors
    /// If the connection has ended.
    pub(crate) async fn flush(&mut self) -> anyhow::Result<()> {
        if !self.out.is_empty() {
            self.stream.write_all(&self.out).await?;
            self.out.clear();
        }
        Ok(())
    }
}
