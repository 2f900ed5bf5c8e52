//! How a broker is made, run and asked.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, ensure};

use crate::{
    port::Port,
    process::{self, on_path},
    service::Program,
};

const MISSING: &str = "there is no java on PATH; Kafka needs version 17 or later (on Debian and Ubuntu: apt-get install default-jre-headless)";
const FORMATTED_WITHIN: Duration = Duration::from_secs(120);
const ANSWERED_WITHIN: Duration = Duration::from_secs(5);
/// Sixteen bytes in Base64, as Kafka wants it.
const CLUSTER: &str = "a2l0aC1oYXJuZXNzLTAwMQ";
/// Small and quick to start: one broker for one test does not live long enough for more.
const JVM: [&str; 5] = ["-Xms64m", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"];

/// Everything in one process, copies and internal partitions as few as possible. A broker that was killed may come back when its session has timed out.
const SETTINGS: &str = "process.roles=broker,controller
node.id=1
controller.listener.names=CONTROLLER
listener.security.protocol.map=DIRECT:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=DIRECT
num.network.threads=2
num.io.threads=2
num.partitions=4
offsets.topic.num.partitions=4
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
log.cleaner.dedupe.buffer.size=4194304
";

#[derive(Debug)]
pub(super) struct Broker {
    java: PathBuf,
    /// The folder with the jar files.
    artifacts: PathBuf,
    settings: String,
    direct: Port,
    controller: Port,
    /// Where the broker listens for what comes through a proxy,
    proxied: Port,
    /// and where the proxy listens.
    advertised: Port,
}

impl Broker {
    pub(super) fn new(artifacts: PathBuf, settings: String) -> anyhow::Result<Self> {
        let java = on_path("java").context(MISSING)?;
        let (direct, controller, proxied, advertised) = (Port::reserve()?, Port::reserve()?, Port::reserve()?, Port::reserve()?);
        Ok(Self { java, artifacts, settings, direct, controller, proxied, advertised })
    }

    pub(super) fn direct(&self) -> SocketAddr {
        self.direct.address()
    }

    pub(super) fn proxied(&self) -> SocketAddr {
        self.proxied.address()
    }

    pub(super) fn advertised(&self) -> SocketAddr {
        self.advertised.address()
    }

    fn properties(&self, folder: &Path) -> String {
        let (direct, controller, proxied) = (self.direct.address(), self.controller.address(), self.proxied.address());
        let advertised = self.advertised.address();
        let data = folder.join("data");
        let places = [
            format!("listeners=DIRECT://{direct},PROXIED://{proxied},CONTROLLER://{controller}"),
            format!("advertised.listeners=DIRECT://{direct},PROXIED://{advertised}"),
            format!("controller.quorum.voters=1@{controller}"),
            format!("log.dirs={}", data.display()),
        ];
        format!("{SETTINGS}{}\n{}", places.join("\n"), self.settings)
    }

    fn java(&self, class: &str) -> Command {
        let mut command = Command::new(&self.java);
        // The JVM itself expands the star.
        command.args(JVM).arg("-cp").arg(self.artifacts.join("*")).arg(class);
        command
    }
}

impl Program for Broker {
    fn name(&self) -> &str {
        "Kafka"
    }

    fn prepare(&self, folder: &Path) -> anyhow::Result<()> {
        let properties = folder.join("server.properties");
        fs::write(&properties, self.properties(folder))?;
        let mut format = self.java("kafka.tools.StorageTool");
        format.current_dir(folder).args(["format", "--cluster-id", CLUSTER, "--config"]).arg(properties);
        process::run(&mut format, FORMATTED_WITHIN).context("cannot format Kafka's storage").map(drop)
    }

    fn command(&self, folder: &Path) -> Command {
        let mut command = self.java("kafka.Kafka");
        command.arg(folder.join("server.properties"));
        command
    }

    /// Whether it names itself as a broker: it does when it is registered with its controller and takes requests.
    fn answers(&self, _folder: &Path) -> anyhow::Result<()> {
        ensure!(brokers(self.direct())? > 0, "no broker is registered yet");
        Ok(())
    }
}

/// A Metadata request, version 0: size, key, version, correlation, no client name, and the list of topics, of which one that cannot exist.
const METADATA: [u8; 21] = [0, 0, 0, 17, 0, 3, 0, 0, 0, 0, 0, 7, 0xff, 0xff, 0, 0, 0, 1, 0, 1, b'/'];

/// How many brokers the cluster has.
fn brokers(address: SocketAddr) -> anyhow::Result<i32> {
    let mut stream = TcpStream::connect_timeout(&address, ANSWERED_WITHIN)?;
    stream.set_read_timeout(Some(ANSWERED_WITHIN))?;
    stream.set_write_timeout(Some(ANSWERED_WITHIN))?;
    stream.write_all(&METADATA)?;
    let mut head = [[0; 4]; 3];
    for field in &mut head {
        stream.read_exact(field)?;
    }
    let [_size, correlation, brokers] = head.map(i32::from_be_bytes);
    ensure!(correlation == 7, "an answer to something else");
    Ok(brokers)
}
