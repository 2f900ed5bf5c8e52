//! A logged-in user, driven by one small task: read a batch, act on it, write once.

use std::{
    cell::RefCell,
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::{bail, ensure};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use kith_meter::Meter;
use tokio::{sync::Notify, task::JoinHandle};

use crate::{
    inbox::Inbox,
    outbox::{self, Outbox},
    xmpp::{Connection, Element, SM, User},
};

/// Logins under way at one time.
const AT_ONCE: usize = 64;
const LOOK: Duration = Duration::from_millis(5);

/// What all users of a run share. Everything runs on one thread.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) meter: RefCell<Meter>,
    /// The zero of times in message bodies.
    pub(crate) epoch: Instant,
    /// The first thing that went wrong.
    failure: RefCell<Option<String>>,
}

impl Shared {
    /// For one run.
    pub(crate) fn new() -> Rc<Self> {
        Rc::new(Self { meter: RefCell::new(Meter::default()), epoch: Instant::now(), failure: RefCell::default() })
    }

    /// # Errors
    /// With the first thing that went wrong on any connection, if anything did.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        self.failure.borrow().as_ref().map_or(Ok(()), |failure| Err(anyhow::anyhow!("{failure}")))
    }

    /// Waits until `done` holds; returns false if it does not within `deadline`.
    ///
    /// # Errors
    /// As [`Self::check`].
    pub(crate) async fn wait(&self, deadline: Duration, done: impl Fn() -> bool) -> anyhow::Result<bool> {
        let end = Instant::now() + deadline;
        loop {
            self.check()?;
            if done() || Instant::now() >= end {
                return Ok(done());
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// Both sides of a user.
#[derive(Debug)]
struct Sides {
    outbox: Outbox,
    inbox: Inbox,
}

/// A user with a connection. Its task ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Client {
    sides: Rc<RefCell<Sides>>,
    wake: Rc<Notify>,
    task: JoinHandle<()>,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Client {
    /// Logs in. Must be called within a `LocalSet`.
    async fn start(address: SocketAddr, user: User<'_>, outbox: Outbox, shared: Rc<Shared>) -> anyhow::Result<Self> {
        let connection = Connection::login(address, user).await?;
        let sides = Rc::new(RefCell::new(Sides { outbox, inbox: Inbox::default() }));
        let wake = Rc::new(Notify::new());
        let mut pump = Pump { connection, sides: Rc::clone(&sides), wake: Rc::clone(&wake), shared: Rc::clone(&shared), delivered: Vec::new() };
        let task = tokio::task::spawn_local(async move {
            if let Err(error) = pump.run().await {
                shared.failure.borrow_mut().get_or_insert(format!("a connection: {error:#}"));
            }
        });
        Ok(Self { sides, wake, task })
    }

    /// Logs in users 0 to `count`, whose names and passwords `name` and `password` give, with the outbox that `outbox` makes for each.
    ///
    /// # Errors
    /// If one login fails.
    pub(crate) async fn start_all(
        address: SocketAddr,
        host: &str,
        names: &[String],
        password: &str,
        outbox: impl Fn(usize) -> Outbox,
        shared: &Rc<Shared>,
    ) -> anyhow::Result<Vec<Self>> {
        let outbox = &outbox;
        let logins = stream::iter(names.iter().enumerate()).map(|(n, name)| {
            let user = User { host, name, password };
            async move { Self::start(address, user, outbox(n), Rc::clone(shared)).await }
        });
        logins.buffered(AT_ONCE).try_collect().await
    }

    /// Looks at what it has sent and received.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&Outbox, &Inbox) -> T) -> T {
        let sides = self.sides.borrow();
        look(&sides.outbox, &sides.inbox)
    }

    /// Changes what it sends.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Outbox)) {
        change(&mut self.sides.borrow_mut().outbox);
        self.wake.notify_one();
    }
}

struct Pump {
    connection: Connection,
    sides: Rc<RefCell<Sides>>,
    wake: Rc<Notify>,
    shared: Rc<Shared>,
    /// When each message was due whose acknowledgement is about to be written.
    delivered: Vec<Instant>,
}

impl Pump {
    async fn run(&mut self) -> anyhow::Result<()> {
        loop {
            self.sides.borrow_mut().outbox.fill(Instant::now(), &mut self.connection.out);
            self.connection.flush().await?;
            let now = Instant::now();
            self.delivered.drain(..).for_each(|due| self.shared.meter.borrow_mut().delivered(due, now));
            tokio::select! {
                read = self.connection.read() => read?,
                () = self.wake.notified() => {}
            }
            self.take_all()?;
        }
    }

    /// Everything that has arrived; one acknowledgement answers all of it.
    fn take_all(&mut self) -> anyhow::Result<()> {
        let mut owed = false;
        while let Some(element) = self.connection.next()? {
            owed |= self.take(element)?;
        }
        if owed {
            use std::io::Write as _;
            let handled = self.sides.borrow().inbox.handled();
            write!(self.connection.out, "<a xmlns='{SM}' h='{handled}'/>")?;
        }
        Ok(())
    }

    /// Returns whether it is to be acknowledged.
    fn take(&mut self, element: Element) -> anyhow::Result<bool> {
        let mut sides = self.sides.borrow_mut();
        if element.is_counted() {
            sides.inbox.count();
        }
        match element {
            Element::Message(body) => {
                sides.inbox.take(body.number);
                self.delivered.push(outbox::due(self.shared.epoch, body));
                Ok(true)
            }
            Element::Request => Ok(true),
            Element::Handled(total) => {
                let (now, mut meter) = (Instant::now(), self.shared.meter.borrow_mut());
                ensure!(sides.outbox.handled(total, |due| meter.accepted(due, now)), "the server acknowledged more than was sent");
                Ok(false)
            }
            Element::Refused => bail!("the server refused a message or ended the stream"),
            _ => Ok(false),
        }
    }
}
