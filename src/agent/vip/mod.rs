//! The virtual address: held by the master, known to the kernel only until the lease ends.
//!
//! Each renewal of the lease renews the address's lifetime in the kernel. When nobody renews it any
//! more, because the agent and its guard are dead or frozen, the kernel itself takes it away. Before
//! an address is taken, the network is asked whether somebody has it; afterwards it is announced, so
//! that neighbours and switches learn the new place at once.

mod frames;
mod neighbours;

use std::net::IpAddr;
use std::time::Duration;

use futures_util::TryStreamExt;
use rtnetlink::packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, CacheInfo,
};
use serde::{Deserialize, Serialize};

pub(in crate::agent) use frames::checksum;
pub use neighbours::{announce, in_use_by};

/// The lifetime that the kernel takes for "for ever", in seconds.
const FOR_EVER: u32 = u32::MAX;
/// The kernel counts whole seconds, and looks a little late.
const KERNEL_DELAY: Duration = Duration::from_millis(100);

/// An address on an interface of this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The address.
    pub address: IpAddr,
    /// The length of its network's prefix.
    pub prefix: u8,
    /// The interface's name.
    pub interface: String,
    /// The interface's number.
    pub index: u32,
}

/// Where an address belongs: the interface of that name, or else the one that has an address in the
/// same network already.
///
/// # Errors
/// If there is no such interface.
pub fn place(address: IpAddr, prefix: u8, name: Option<&str>) -> Result<Place, String> {
    let interfaces = pnet_datalink::interfaces();
    let near = |interface: &&pnet_datalink::NetworkInterface| {
        interface.ips.iter().any(|net| net.contains(address) && net.ip() != address)
    };
    let found = match name {
        Some(name) => interfaces.iter().find(|interface| interface.name == name),
        None => interfaces.iter().find(|interface| !interface.is_loopback() && near(interface)),
    };
    let known = || interfaces.iter().map(|i| i.name.as_str()).collect::<Vec<_>>().join(", ");
    match (found, name) {
        (Some(found), _) => {
            Ok(Place { address, prefix, interface: found.name.clone(), index: found.index })
        }
        (None, Some(name)) => Err(format!("there is no interface {name} among {}", known())),
        (None, None) => Err(format!(
            "no interface of {} has an address in the network of {address}; name one with \
             `interface`",
            known()
        )),
    }
}

/// The kernel's address tables.
#[derive(Debug, Clone)]
pub struct Addresses {
    handle: rtnetlink::Handle,
}

impl Addresses {
    /// Opens a way to the kernel. To be called inside of a runtime.
    ///
    /// # Errors
    /// If the kernel has none.
    pub fn open() -> Result<Self, String> {
        let (connection, handle, _) =
            rtnetlink::new_connection().map_err(|error| format!("netlink: {error}"))?;
        // Ends with the handle.
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    /// Adds an address, or gives one that is there another lifetime; none: for ever.
    ///
    /// # Errors
    /// What the kernel said.
    pub async fn set(&self, place: &Place, lifetime: Option<Duration>) -> Result<(), String> {
        let valid = match lifetime {
            None => FOR_EVER,
            Some(time) => {
                let seconds = time.saturating_sub(KERNEL_DELAY).as_secs();
                u32::try_from(seconds).unwrap_or(FOR_EVER - 1)
            }
        };
        if valid == 0 {
            return Err("the lease ends before the address could be used".into());
        }
        let mut life = CacheInfo::default();
        life.ifa_valid = valid;
        // It should not be chosen as a source while another one fits. For IPv4 the kernel wants the
        // two in order and has no such choice.
        life.ifa_preferred = if place.address.is_ipv6() { 0 } else { valid };
        let mut request =
            self.handle.address().add(place.index, place.address, place.prefix).replace();
        let message = request.message_mut();
        message.attributes.push(AddressAttribute::CacheInfo(life));
        if place.address.is_ipv6() {
            // Whether it is in use has been asked already, and more quickly.
            message.header.flags |= AddressHeaderFlags::Nodad;
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        request.execute().await.map_err(|error| explain("add", place, &error))
    }

    /// Takes an address away; one that is not there is no mistake.
    ///
    /// # Errors
    /// What the kernel said.
    pub async fn remove(&self, place: &Place) -> Result<(), String> {
        let Some(message) = self.find(place).await? else { return Ok(()) };
        let removed = self.handle.address().del(message).execute().await;
        match removed {
            // It may have gone by itself meanwhile.
            Err(_) if self.find(place).await?.is_none() => Ok(()),
            other => other.map_err(|error| explain("remove", place, &error)),
        }
    }

    /// Whether the address is there.
    ///
    /// # Errors
    /// What the kernel said.
    pub async fn has(&self, place: &Place) -> Result<bool, String> {
        self.find(place).await.map(|found| found.is_some())
    }

    async fn find(&self, place: &Place) -> Result<Option<AddressMessage>, String> {
        let asked = self.handle.address().get().set_link_index_filter(place.index);
        let all: Vec<AddressMessage> =
            asked.execute().try_collect().await.map_err(|error| format!("netlink: {error}"))?;
        let ours = |message: &AddressMessage| {
            message.attributes.iter().any(
                |a| matches!(a, AddressAttribute::Address(ip) | AddressAttribute::Local(ip) if *ip == place.address),
            )
        };
        Ok(all.into_iter().find(ours))
    }
}

fn explain(what: &str, place: &Place, error: &rtnetlink::Error) -> String {
    let Place { address, interface, .. } = place;
    let text = error.to_string();
    let remedy = if text.contains("ermitted") {
        ": the agent needs CAP_NET_ADMIN (and CAP_NET_RAW to announce it)"
    } else {
        ""
    };
    format!("cannot {what} {address} on {interface}: {text}{remedy}")
}

/// Takes addresses away, from a process without a runtime.
///
/// # Errors
/// The first that stays, and why.
pub fn remove_now(places: &[Place]) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    runtime.block_on(async {
        let addresses = Addresses::open()?;
        let mut outcome = Ok(());
        for place in places {
            outcome = outcome.and(addresses.remove(place).await);
        }
        outcome
    })
}
