//! One stream is one socket is one open file: how many this process may have.

use crate::{execute::probe, plan::Arrival};

/// Most requests in flight of an open loop: beyond it the server is so far behind that more sockets would only measure
/// this machine.
const IN_FLIGHT_MAX: usize = 10_000;

/// Files for everything but streams: results, telemetry, runtimes, devices.
const RESERVE: u64 = 256;

/// Raises the soft limit to the hard one, which needs no privilege, and says how many streams that leaves room for;
/// `None` where the system does not tell.
pub fn streams_max() -> Option<usize> {
    let (_, hard) = probe::open_file_limit()?;
    let limit = libc::rlimit { rlim_cur: hard, rlim_max: hard };
    // SAFETY: the pointer is to an `rlimit` that lives through the call. If it fails the old limit stays, which is read next.
    let _ = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    let (soft, _) = probe::open_file_limit()?;
    Some(usize::try_from(soft.saturating_sub(RESERVE)).unwrap_or(usize::MAX))
}

/// Most requests in flight for a load, where `room` streams can be open. `Err` if the load asks for more.
pub(super) fn in_flight_max(arrival: &Arrival, room: Option<usize>) -> Result<usize, String> {
    let room = room.unwrap_or(IN_FLIGHT_MAX);
    match *arrival {
        Arrival::Closed { concurrency } if concurrency > room => Err(format!(
            "concurrency: expected at most {room} streams (the limit of open files less {RESERVE}), got {concurrency}\n  \
             hint: raise the hard limit of open files (ulimit -Hn)"
        )),
        Arrival::Closed { concurrency } => Ok(concurrency),
        _ => Ok(IN_FLIGHT_MAX.min(room)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_streams_than_files_are_refused_with_a_remedy() {
        let closed = |concurrency| Arrival::Closed { concurrency };
        assert_eq!(in_flight_max(&closed(20_000), Some(30_000)), Ok(20_000));
        let error = in_flight_max(&closed(5_000), Some(768)).unwrap_err();
        assert!(error.starts_with("concurrency: expected at most 768 streams"), "{error}");
        assert!(error.contains("\n  hint: raise the hard limit"), "{error}");
    }

    #[test]
    fn an_open_loop_stops_at_the_limit_of_files() {
        let poisson = Arrival::Poisson { rate: 1.0 };
        assert_eq!(in_flight_max(&poisson, Some(100)), Ok(100));
        assert_eq!(in_flight_max(&poisson, None), Ok(IN_FLIGHT_MAX));
    }

    #[test]
    fn the_soft_limit_becomes_the_hard_one() {
        let room = streams_max().unwrap();
        let (soft, hard) = probe::open_file_limit().unwrap();
        assert_eq!((soft, room as u64), (hard, hard.saturating_sub(RESERVE)));
    }
}
