//! Frames on the wire: ARP (RFC 826, 5227) and neighbour discovery (RFC 4861). Bytes only.

use std::net::{Ipv4Addr, Ipv6Addr};

/// A hardware address.
pub(super) type Mac = [u8; 6];

const BROADCAST: Mac = [0xff; 6];
const ARP: [u8; 2] = [0x08, 0x06];
const IPV6: [u8; 2] = [0x86, 0xdd];
const ICMPV6: u8 = 58;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;

/// An ARP packet to everybody.
fn arp(operation: u8, from: (Mac, Ipv4Addr), to: (Mac, Ipv4Addr)) -> Vec<u8> {
    let mut frame = Vec::with_capacity(42);
    frame.extend(BROADCAST);
    frame.extend(from.0);
    frame.extend(ARP);
    // Ethernet, IPv4, and the lengths of their addresses.
    frame.extend([0, 1, 8, 0, 6, 4, 0, operation]);
    frame.extend(from.0);
    frame.extend(from.1.octets());
    frame.extend(to.0);
    frame.extend(to.1.octets());
    frame
}

/// "Who has this address?", from nobody in particular (RFC 5227, 1.1).
pub(super) fn arp_probe(own: Mac, address: Ipv4Addr) -> Vec<u8> {
    arp(1, (own, Ipv4Addr::UNSPECIFIED), ([0; 6], address))
}

/// "This address is here", as a request and as a reply: neighbours differ in which they believe.
pub(super) fn arp_announcements(own: Mac, address: Ipv4Addr) -> [Vec<u8>; 2] {
    [arp(1, (own, address), ([0; 6], address)), arp(2, (own, address), (BROADCAST, address))]
}

/// Who a frame says has the IPv4 address, if it says so.
pub(super) fn arp_owner(frame: &[u8], address: Ipv4Addr) -> Option<Mac> {
    let arp = frame.get(12..14)? == ARP;
    let sender: Mac = frame.get(22..28)?.try_into().ok()?;
    let ip: [u8; 4] = frame.get(28..32)?.try_into().ok()?;
    (arp && Ipv4Addr::from(ip) == address).then_some(sender)
}

/// A message of neighbour discovery.
fn discovery(
    kind: u8,
    flags: u8,
    target: Ipv6Addr,
    option: Option<(u8, Mac)>,
    from: (Mac, Ipv6Addr),
    to: (Mac, Ipv6Addr),
) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0, flags, 0, 0, 0];
    message.extend(target.octets());
    if let Some((number, mac)) = option {
        message.extend([number, 1]);
        message.extend(mac);
    }
    let length = u16::try_from(message.len()).unwrap_or_default();
    let mut pseudo = Vec::with_capacity(40 + message.len());
    pseudo.extend(from.1.octets());
    pseudo.extend(to.1.octets());
    pseudo.extend(u32::from(length).to_be_bytes());
    pseudo.extend([0, 0, 0, ICMPV6]);
    pseudo.extend(&message);
    message[2..4].copy_from_slice(&checksum(&pseudo).to_be_bytes());
    let mut frame = Vec::with_capacity(54 + message.len());
    frame.extend(to.0);
    frame.extend(from.0);
    frame.extend(IPV6);
    frame.extend([0x60, 0, 0, 0]);
    frame.extend(length.to_be_bytes());
    // 255 hops: it has crossed no router.
    frame.extend([ICMPV6, 255]);
    frame.extend(from.1.octets());
    frame.extend(to.1.octets());
    frame.extend(message);
    frame
}

/// The Internet checksum (RFC 1071).
pub(in crate::agent) fn checksum(bytes: &[u8]) -> u16 {
    let pairs = bytes.chunks(2).map(|pair| {
        u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or_default()]))
    });
    let mut sum: u32 = pairs.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or_default()
}

/// "Who has this address?", from nobody in particular (RFC 4862, 5.4.2).
pub(super) fn solicitation(own: Mac, address: Ipv6Addr) -> Vec<u8> {
    let last = address.octets();
    let group = Ipv6Addr::new(
        0xff02,
        0,
        0,
        0,
        0,
        1,
        0xff00 | u16::from(last[13]),
        u16::from_be_bytes([last[14], last[15]]),
    );
    let mac = [0x33, 0x33, 0xff, last[13], last[14], last[15]];
    let nobody = (own, Ipv6Addr::UNSPECIFIED);
    discovery(SOLICITATION, 0, address, None, nobody, (mac, group))
}

/// "This address is here", unasked, and instead of what was known before.
pub(super) fn advertisement(own: Mac, address: Ipv6Addr) -> Vec<u8> {
    const OVERRIDE: u8 = 0x20;
    const TARGET_LINK_LAYER: u8 = 2;
    let everybody = ([0x33, 0x33, 0, 0, 0, 1], Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1));
    let option = Some((TARGET_LINK_LAYER, own));
    discovery(ADVERTISEMENT, OVERRIDE, address, option, (own, address), everybody)
}

/// Who a frame says has the IPv6 address, if it says so.
pub(super) fn advertised_owner(frame: &[u8], address: Ipv6Addr) -> Option<Mac> {
    let fits = frame.get(12..14)? == IPV6
        && frame.get(20).copied()? == ICMPV6
        && frame.get(54).copied()? == ADVERTISEMENT
        && frame.get(62..78)? == address.octets();
    fits.then(|| frame.get(6..12).and_then(|mac| mac.try_into().ok())).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Mac = [2, 0, 0, 0, 0, 7];

    #[test]
    fn an_announcement_names_its_owner() {
        let address = Ipv4Addr::new(10, 0, 0, 100);
        for frame in arp_announcements(OWN, address) {
            assert_eq!(frame.len(), 42);
            assert_eq!(arp_owner(&frame, address), Some(OWN));
            assert_eq!(arp_owner(&frame, Ipv4Addr::new(10, 0, 0, 1)), None);
        }
        assert_eq!(arp_owner(&arp_probe(OWN, address), address), None, "a probe claims nothing");
        assert_eq!(arp_owner(&[0; 20], address), None);
    }

    #[test]
    fn messages_of_neighbour_discovery_are_whole() {
        let address: Ipv6Addr = "fd00::64".parse().expect("an address");
        let frame = advertisement(OWN, address);
        assert_eq!(frame.len(), 14 + 40 + 32);
        assert_eq!(advertised_owner(&frame, address), Some(OWN));
        assert_eq!(advertised_owner(&frame[..60], address), None);
        // With its own checksum in it, the sum over everything is nothing.
        let mut pseudo = frame[22..54].to_vec();
        pseudo.extend([0, 0, 0, 32, 0, 0, 0, ICMPV6]);
        pseudo.extend(&frame[54..]);
        assert_eq!(checksum(&pseudo), 0);
        let asked = solicitation(OWN, address);
        assert_eq!(&asked[..6], [0x33, 0x33, 0xff, 0, 0, 0x64]);
        assert_eq!(advertised_owner(&asked, address), None);
    }
}
