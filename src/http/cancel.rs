//! [`Cancelled`]: what waits for a server ends soon after somebody asks to stop.

use std::fmt;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{
    ConnectionDetails, Connector, NextTimeout, TcpConnector, Transport,
};
use ureq::{Agent, Error};

/// How often it is looked whether to stop.
const TICK: Duration = Duration::from_millis(50);

/// Says whether somebody has asked to stop. By default nobody ever does.
#[derive(Clone, Default)]
pub struct Cancelled(Option<Arc<dyn Fn() -> bool + Send + Sync>>);

impl fmt::Debug for Cancelled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cancelled({})", self.is())
    }
}

impl Cancelled {
    /// As `says` says, which is asked many times.
    pub fn new(says: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(says)))
    }

    /// Whether it is so.
    pub fn is(&self) -> bool {
        self.0.as_ref().is_some_and(|says| says())
    }

    /// Breaks all connections of `agent` once it is so: whoever reads or writes on one fails at once.
    pub(super) fn watch(&self, agent: &Agent, alive: Weak<()>) {
        let Some(says) = self.0.clone() else { return };
        let agent = agent.clone();
        thread::spawn(move || {
            while alive.strong_count() > 0 {
                if says() {
                    return agent.shutdown();
                }
                thread::sleep(TICK);
            }
        });
    }

    /// Does what the system cannot be asked to break off. It is left alone once it is so.
    fn or_leave<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        if self.0.is_none() {
            return work();
        }
        let (sender, receiver) = mpsc::sync_channel(1);
        thread::spawn(move || drop(sender.send(work())));
        loop {
            match receiver.recv_timeout(TICK) {
                Ok(done) => return done,
                Err(RecvTimeoutError::Timeout) if !self.is() => {}
                Err(_) => return Err(Error::Other("cancelled".into())),
            }
        }
    }
}

/// Opens TCP connections.
#[derive(Debug)]
pub(super) struct Opener(pub(super) Cancelled);

impl<In: Transport> Connector<In> for Opener {
    type Out = <TcpConnector as Connector<In>>::Out;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, Error> {
        if chained.is_some() {
            return TcpConnector::default().connect(details, chained);
        }
        let (uri, config, addrs) =
            (details.uri.clone(), details.config.clone(), details.addrs.clone());
        let (request_level, now, timeout) = (details.request_level, details.now, details.timeout);
        let current_time = Arc::clone(&details.current_time);
        let run_connector = Arc::clone(&details.run_connector);
        let register_shutdown = Arc::clone(&details.register_shutdown);
        self.0.or_leave(move || {
            let details = ConnectionDetails {
                uri: &uri,
                addrs,
                config: &config,
                request_level,
                resolver: &DefaultResolver::default(),
                now,
                timeout,
                current_time,
                run_connector,
                register_shutdown,
            };
            TcpConnector::default().connect(&details, None)
        })
    }
}

/// Looks names up.
#[derive(Debug)]
pub(super) struct Lookup(pub(super) Cancelled);

impl Resolver for Lookup {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, Error> {
        let (uri, config) = (uri.clone(), config.clone());
        self.0.or_leave(move || DefaultResolver::default().resolve(&uri, &config, timeout))
    }
}
