//! Which gateways something is for: one task takes what waits, looks accounts up in the cache, asks the directory for those that are missing, all together,
//! and puts items into the outboxes of the gateways that hold the devices.
//!
//! One question to the directory is under way at a time. What it holds up waits, bounded; what can be answered from the cache goes past it. An answer that
//! has become stale while it was under way serves those that wait for it and is not kept.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    future::Future,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
};

use bytes::BytesMut;
use kith_chat_core::{
    log::Resolved,
    sessions::{AT_ONCE, DirectoryError, GatewayId, Place, Stale},
};
use kith_proto::{
    id::{AccountId, DeviceId, DeviceRef},
    v1::server_frame::Kind,
};
use tokio::sync::mpsc;

use super::{
    Cluster,
    places::Elsewhere,
    wire::{self, Parcel},
};
use crate::sessions::Absent;

/// Jobs that may wait for the directory, and the bytes of their messages.
const MAX_PARKED: usize = 65_536;
const MAX_PARKED_BYTES: usize = 32 << 20;
/// What a job takes beside its message.
const JOB_OVERHEAD: usize = 128;

/// Something for devices that may be connected to other gateways.
#[derive(Debug)]
pub(super) enum Job {
    /// A message that was accepted just now; with the time at which this was learnt, in Unix microseconds, and the devices that it is for and that are not here.
    Message(Arc<Resolved>, u64, Absent),
    /// A message that had been accepted before: its receivers are to look into the log.
    Again(Arc<Resolved>),
    /// A push for an account, or for one device of it.
    Tell(AccountId, Option<DeviceId>, Box<Kind>),
}

impl Job {
    /// Whose places have to be known.
    fn accounts(&self) -> impl Iterator<Item = AccountId> + use<> {
        let (one, other) = match self {
            Self::Message(message, ..) | Self::Again(message) => (message.append.recipient, Some(message.append.sender.account)),
            Self::Tell(account, ..) => (*account, None),
        };
        std::iter::once(one).chain(other)
    }

    /// What it keeps in memory.
    pub(super) fn bytes(&self) -> usize {
        JOB_OVERHEAD
            + match self {
                Self::Message(message, ..) | Self::Again(message) => message.append.body.len(),
                Self::Tell(..) => 0,
            }
    }
}

type Found = Result<Vec<Vec<Place>>, DirectoryError>;

/// A question to the directory that is under way.
struct Question {
    accounts: Vec<AccountId>,
    jobs: Vec<Job>,
    answer: Pin<Box<dyn Future<Output = Found> + Send>>,
    stale: HashSet<AccountId>,
    all_stale: bool,
}

#[derive(Default)]
struct Router {
    question: Option<Question>,
    parked: VecDeque<Job>,
    parked_bytes: usize,
    /// In which messages are encoded, one after the other.
    buffer: BytesMut,
}

/// Items by the gateway that they are for, so that each outbox is locked once.
type Batch = HashMap<GatewayId, Vec<Parcel>>;

impl Cluster {
    /// Runs for as long as the process serves.
    pub(super) async fn route_jobs(self: Arc<Self>) {
        let mut stale = self.directory.stale();
        let mut router = Router::default();
        loop {
            // What is stale comes first: an answer that is ready at the same time may be older.
            tokio::select! {
                biased;
                Some(stale) = next(&mut stale) => self.forget(stale, router.question.as_mut()),
                found = answered(&mut router.question) => self.found(&mut router, found),
                jobs = self.jobs.take() => self.take(&mut router, jobs),
            }
        }
    }

    fn forget(&self, stale: Stale, question: Option<&mut Question>) {
        let mut places = self.places.lock();
        match stale {
            Stale::Account(account) => {
                places.forget(&account);
                if let Some(question) = question {
                    question.stale.insert(account);
                }
            }
            Stale::Everything => {
                places.forget_all();
                if let Some(question) = question {
                    question.all_stale = true;
                }
            }
        }
    }

    fn take(&self, router: &mut Router, jobs: Vec<Job>) {
        let mut batch = Batch::new();
        {
            let mut places = self.places.lock();
            for job in jobs {
                if job.accounts().all(|account| places.knows(&account)) {
                    self.counters.cached.add(job.accounts().count() as u64);
                    self.put(&job, |account| places.peek(account), &mut router.buffer, &mut batch);
                } else {
                    self.park(router, job);
                }
            }
        }
        self.send(batch);
        self.ask(router);
    }

    fn park(&self, router: &mut Router, job: Job) {
        let bytes = job.bytes();
        if self.is_away() || router.parked.len() >= MAX_PARKED || router.parked_bytes + bytes > MAX_PARKED_BYTES {
            return self.drop_job();
        }
        router.parked_bytes += bytes;
        router.parked.push_back(job);
    }

    /// Asks for what is missing, unless a question is under way.
    fn ask(&self, router: &mut Router) {
        if router.question.is_some() || router.parked.is_empty() {
            return;
        }
        let (mut accounts, mut jobs) = (HashSet::new(), Vec::new());
        {
            let mut places = self.places.lock();
            // A job has two accounts at most.
            while accounts.len() + 2 <= AT_ONCE
                && let Some(job) = router.parked.pop_front()
            {
                router.parked_bytes -= job.bytes();
                accounts.extend(job.accounts().filter(|account| !places.knows(account)));
                jobs.push(job);
            }
        }
        let accounts: Vec<_> = accounts.into_iter().collect();
        self.counters.looked_up.add(accounts.len() as u64);
        let (directory, asked) = (Arc::clone(&self.directory), accounts.clone());
        let answer = Box::pin(async move { if asked.is_empty() { Ok(Vec::new()) } else { directory.find(&asked).await } });
        router.question = Some(Question { accounts, jobs, answer, stale: HashSet::new(), all_stale: false });
    }

    fn found(&self, router: &mut Router, found: Found) {
        let Some(question) = router.question.take() else { return };
        match found {
            Ok(found) => {
                let found = question.accounts.iter().copied().zip(found.into_iter().map(|places| self.elsewhere(places))).collect();
                self.answer(router, question, found);
            }
            Err(error) => {
                self.failed(&error);
                question.jobs.iter().for_each(|_| self.drop_job());
                router.parked.drain(..).for_each(|_| self.drop_job());
                router.parked_bytes = 0;
            }
        }
        self.ask(router);
    }

    fn answer(&self, router: &mut Router, question: Question, mut found: HashMap<AccountId, Elsewhere>) {
        let mut batch = Batch::new();
        {
            let mut places = self.places.lock();
            for job in question.jobs {
                // What was in the cache when the question was asked may have left it since.
                if job.accounts().all(|account| found.contains_key(&account) || places.knows(&account)) {
                    self.put(
                        &job,
                        |account| found.get(account).map_or_else(|| places.peek(account), |places| &places[..]),
                        &mut router.buffer,
                        &mut batch,
                    );
                } else {
                    self.park(router, job);
                }
            }
            if !question.all_stale {
                found.retain(|account, _| !question.stale.contains(account));
                found.into_iter().for_each(|(account, elsewhere)| places.insert(account, elsewhere));
            }
        }
        self.send(batch);
    }

    fn elsewhere(&self, mut places: Vec<Place>) -> Elsewhere {
        places.retain(|place| place.gateway != self.me());
        places.into_boxed_slice()
    }

    /// Makes the items of a job.
    fn put<'a>(&self, job: &Job, places: impl Fn(&AccountId) -> &'a [Place], buffer: &mut BytesMut, batch: &mut Batch) {
        self.tell_of_sleepers(job, &places);
        for gateway in gateways(job, &places) {
            let item = match job {
                Job::Message(message, accepted_us, _) => {
                    let is_there = |account: &AccountId, device: &[u8]| {
                        places(account).iter().any(|place| place.gateway == gateway && place.device.0[..] == *device)
                    };
                    let trace = self.tracer.as_ref().and_then(|tracer| tracer.routed(&message.append.course));
                    wire::deliver(buffer, message, *accepted_us, trace, is_there)
                }
                // Both accounts may have devices there; each is told where it has some.
                Job::Again(_) => None,
                Job::Tell(account, device, push) => Some(wire::tell(*account, *device, push.as_ref().clone())),
            };
            let out = batch.entry(gateway).or_default();
            out.extend(item);
            if matches!(job, Job::Again(_)) {
                let there = job.accounts().filter(|account| places(account).iter().any(|place| place.gateway == gateway));
                out.extend(there.map(|account| wire::behind(Some(account))));
            }
        }
    }

    /// Those that are neither here nor at another gateway that lives. Until it is known which ones do, nobody is taken for asleep.
    fn tell_of_sleepers<'a>(&self, job: &Job, places: &impl Fn(&AccountId) -> &'a [Place]) {
        let (Job::Message(message, _, absent), Some(sleepers)) = (job, &self.sleepers) else { return };
        if absent.is_nobody() || !self.renewed.load(Ordering::Acquire) {
            return;
        }
        let is_elsewhere = |device: &DeviceRef| {
            let mut places = places(&device.account).iter();
            places.any(|place| place.device == device.device && self.links.has(place.gateway))
        };
        sleepers.tell(message, absent.devices(&message.append).filter(|device| !is_elsewhere(device)));
    }

    fn send(&self, batch: Batch) {
        for (gateway, items) in batch {
            match self.links.get(gateway) {
                Some(link) => link.outbox.put(items),
                // Gone, or so new that the last renewal did not name it.
                None => {
                    self.counters.unrouted.add(items.len() as u64);
                    self.renew_soon.notify_one();
                }
            }
        }
    }

    /// Nobody knows for whom it was. The log has it.
    pub(super) fn drop_job(&self) {
        self.counters.unrouted.one();
        self.missed.store(true, Ordering::Release);
    }
}

/// The gateways that a job is for, each once: nearly always none or one.
fn gateways<'a>(job: &Job, places: &impl Fn(&AccountId) -> &'a [Place]) -> Vec<GatewayId> {
    let mut gateways = Vec::new();
    let only = match job {
        Job::Tell(_, only, _) => *only,
        _ => None,
    };
    for account in job.accounts() {
        for place in places(&account).iter().filter(|place| only.is_none_or(|only| place.device == only)) {
            if !gateways.contains(&place.gateway) {
                gateways.push(place.gateway);
            }
        }
    }
    gateways
}

async fn next(stale: &mut Option<mpsc::Receiver<Stale>>) -> Option<Stale> {
    match stale {
        Some(stale) => stale.recv().await,
        None => None,
    }
}

async fn answered(question: &mut Option<Question>) -> Found {
    match question {
        Some(question) => question.answer.as_mut().await,
        None => std::future::pending().await,
    }
}
