//! Who listens on an engine's port. That a health check is answered proves that somebody serves there, not that it is the engine
//! that was started: another server may have taken the port first.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, ToSocketAddrs as _},
};

use serde::Serialize;

use crate::execute::supervise;

/// Whether the process that listens is the engine's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Listener {
    /// It is the engine or something that the engine has started.
    Engine,
    /// Not checked: started by a wrapper, whose engine may run in a container or on another machine.
    NotCheckedWrapper,
}

/// A listening socket: address and inode.
type Socket = (IpAddr, u64);

/// Checks that whatever a connection to `host:port` reaches belongs to a descendant of `supervisor`.
///
/// # Errors
/// It does not, or nobody can tell: a sentence for a row.
pub(super) fn check(host: &str, port: u16, supervisor: u32) -> Result<(), String> {
    let hint = "hint: end what listens there, or leave `port` out; an engine in a container or on another machine is started through `wrapper`";
    let reached = reached(host, port)?;
    if reached.is_empty() {
        return Err(format!(
            "port {port} of {host} is answered, but no process here listens on it, so it is not the engine that was started\n  {hint}"
        ));
    }
    let own: BTreeSet<u64> =
        supervise::descendants(supervisor).into_iter().flat_map(sockets_of).collect();
    match reached.iter().find(|inode| !own.contains(inode)) {
        None => Ok(()),
        Some(inode) => Err(format!(
            "port {port} of {host} is answered by {}, which is not the engine that was started\n  {hint}",
            holder(*inode)
        )),
    }
}

/// Inodes of the sockets that a connection may reach.
fn reached(host: &str, port: u16) -> Result<BTreeSet<u64>, String> {
    let table = |name: &str, hex: usize| {
        let path = format!("/proc/net/{name}");
        // Without IPv6 there is no such table.
        let text = match std::fs::read_to_string(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            other => other.map_err(|error| format!("{path}: {error}"))?,
        };
        Ok::<_, String>(listening(&text, port, hex))
    };
    let mut sockets = table("tcp", 8)?;
    sockets.extend(table("tcp6", 32)?);
    let addresses = (host, port)
        .to_socket_addrs()
        .map_err(|error| format!("host {host}: no address: {error}"))?;
    Ok(addresses.flat_map(|address| best(&sockets, loopback(address.ip()))).collect())
}

/// An unspecified address is called on the loopback.
fn loopback(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        other => other,
    }
}

/// As the kernel chooses: a socket bound to the address itself before one bound to all, of its own family before IPv6's.
fn best(sockets: &[Socket], address: IpAddr) -> Vec<u64> {
    let of = |wanted: IpAddr| -> Vec<u64> {
        sockets.iter().filter(|(bound, _)| *bound == wanted).map(|(_, inode)| *inode).collect()
    };
    let v6: IpAddr = Ipv6Addr::UNSPECIFIED.into();
    let tiers = match address {
        IpAddr::V4(_) => [of(address), of(Ipv4Addr::UNSPECIFIED.into()), of(v6)],
        IpAddr::V6(_) => [of(address), of(v6), Vec::new()],
    };
    tiers.into_iter().find(|tier| !tier.is_empty()).unwrap_or_default()
}

/// Listening sockets of a port in the text of `/proc/net/tcp` or `tcp6`, whose addresses have `hex` digits.
fn listening(text: &str, port: u16, hex: usize) -> Vec<Socket> {
    let socket = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (address, bound) = fields.get(1)?.split_once(':')?;
        let (state, inode) = (*fields.get(3)?, fields.get(9)?.parse().ok()?);
        let listens = state == "0A" && u16::from_str_radix(bound, 16) == Ok(port);
        (listens && address.len() == hex).then(|| Some((ip(address)?, inode)))?
    };
    text.lines().skip(1).filter_map(socket).collect()
}

/// An address as the kernel prints it: words of 32 bits in the machine's own byte order. IPv4 in IPv6 is IPv4.
fn ip(hex: &str) -> Option<IpAddr> {
    let words =
        (0..hex.len() / 8).map(|i| u32::from_str_radix(hex.get(8 * i..8 * i + 8)?, 16).ok());
    let bytes: Vec<u8> =
        words.collect::<Option<Vec<_>>>()?.into_iter().flat_map(u32::to_ne_bytes).collect();
    if let Ok(four) = <[u8; 4]>::try_from(bytes.as_slice()) {
        return Some(Ipv4Addr::from(four).into());
    }
    let sixteen = <[u8; 16]>::try_from(bytes.as_slice()).ok()?;
    Some(Ipv6Addr::from(sixteen).to_canonical())
}

/// Inodes of a process's sockets; of one that may not be looked into, none.
fn sockets_of(pid: i32) -> Vec<u64> {
    let Ok(folder) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return Vec::new() };
    let inode = |entry: std::fs::DirEntry| {
        let link = std::fs::read_link(entry.path()).ok()?;
        link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
    };
    folder.flatten().filter_map(inode).collect()
}

/// The process that holds a socket, for a person.
fn holder(inode: u64) -> String {
    let folders = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut pids = folders.filter_map(|folder| folder.file_name().to_str()?.parse::<i32>().ok());
    match pids.find(|pid| sockets_of(*pid).contains(&inode)) {
        Some(pid) => {
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            format!("process {pid} ({})", name.trim())
        }
        None => "a process that cannot be looked into".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn the_kernels_tables_are_read() {
        let text = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 41 1 0 100 0 0 10 0\n\
   1: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 42 1 0 100 0 0 10 0\n\
   2: 0100007F:1F90 0100007F:A000 01 00000000:00000000 00:00000000 00000000     0        0 43 1 0 100 0 0 10 0\n\
   3: 0100007F:1F91 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 44 1 0 100 0 0 10 0\n";
        let sockets = listening(text, 0x1F90, 8);
        let here: IpAddr = if cfg!(target_endian = "little") {
            Ipv4Addr::LOCALHOST.into()
        } else {
            Ipv4Addr::new(1, 0, 0, 127).into()
        };
        assert_eq!(sockets, [(here, 41), (Ipv4Addr::UNSPECIFIED.into(), 42)]);
        assert_eq!(best(&sockets, here), [41], "the address itself comes before all addresses");
        assert_eq!(best(&sockets, Ipv4Addr::new(10, 0, 0, 1).into()), [42]);
        assert!(best(&sockets, Ipv6Addr::LOCALHOST.into()).is_empty());
    }

    #[test]
    fn a_listener_that_is_no_descendant_is_named() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let error = check("127.0.0.1", port, child.id()).unwrap_err();
        let wanted = format!("is answered by process {} (", std::process::id());
        assert!(error.contains(&wanted) && error.contains("hint:"), "{error}");
        drop(listener);
        assert!(check("127.0.0.1", port, child.id()).unwrap_err().contains("no process here"));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
