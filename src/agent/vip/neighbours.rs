//! Asking the network who has an address, and telling it who has it now.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use pnet_datalink::{Channel, Config, DataLinkReceiver, DataLinkSender, NetworkInterface};

use super::Place;
use super::frames::{self, Mac};

/// How often the network is asked (RFC 5227, `PROBE_NUM`).
const PROBES: u32 = 3;

struct Wire {
    own: Mac,
    to: Box<dyn DataLinkSender>,
    from: Box<dyn DataLinkReceiver>,
}

fn open(place: &Place, patience: Duration) -> Result<Wire, String> {
    let here = |interface: &NetworkInterface| interface.index == place.index;
    let interface = pnet_datalink::interfaces().into_iter().find(here);
    let interface = interface.ok_or_else(|| format!("{} has gone", place.interface))?;
    let mac =
        interface.mac.ok_or_else(|| format!("{} has no hardware address", place.interface))?;
    let config = Config {
        read_timeout: Some(patience.max(Duration::from_millis(10))),
        promiscuous: false,
        ..Config::default()
    };
    match pnet_datalink::channel(&interface, config) {
        Ok(Channel::Ethernet(to, from)) => Ok(Wire { own: mac.octets(), to, from }),
        Ok(_) => Err(format!("{} carries no Ethernet frames", place.interface)),
        Err(error) => Err(format!("{}: {error}: the agent needs CAP_NET_RAW", place.interface)),
    }
}

impl Wire {
    fn send(&mut self, frame: &[u8]) -> Result<(), String> {
        match self.to.send_to(frame, None) {
            Some(Ok(())) => Ok(()),
            Some(Err(error)) => Err(format!("a frame cannot be sent: {error}")),
            None => Err("a frame is too long".into()),
        }
    }
}

/// Who else has the address, by hardware address. Blocks for up to three times `patience`.
///
/// # Errors
/// If the network cannot be asked.
pub fn in_use_by(place: &Place, patience: Duration) -> Result<Option<String>, String> {
    let mut wire = open(place, patience)?;
    let question = match place.address {
        IpAddr::V4(address) => frames::arp_probe(wire.own, address),
        IpAddr::V6(address) => frames::solicitation(wire.own, address),
    };
    for _ in 0..PROBES {
        wire.send(&question)?;
        #[expect(clippy::disallowed_methods, reason = "a thread of its own waits for the network")]
        let end = Instant::now() + patience;
        #[expect(clippy::disallowed_methods, reason = "as above")]
        while Instant::now() < end {
            // A timeout ends the round; whatever else is wrong shows at the next send.
            let Ok(frame) = wire.from.next() else { break };
            let owner = match place.address {
                IpAddr::V4(address) => frames::arp_owner(frame, address),
                IpAddr::V6(address) => frames::advertised_owner(frame, address),
            };
            if let Some(owner) = owner.filter(|owner| *owner != wire.own) {
                return Ok(Some(owner.map(|byte| format!("{byte:02x}")).join(":")));
            }
        }
    }
    Ok(None)
}

/// Tells the network that the address is here.
///
/// # Errors
/// If it cannot be told.
pub fn announce(place: &Place) -> Result<(), String> {
    let mut wire = open(place, Duration::ZERO)?;
    match place.address {
        IpAddr::V4(address) => {
            for frame in frames::arp_announcements(wire.own, address) {
                wire.send(&frame)?;
            }
        }
        IpAddr::V6(address) => wire.send(&frames::advertisement(wire.own, address))?,
    }
    Ok(())
}
