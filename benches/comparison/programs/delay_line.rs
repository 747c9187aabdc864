//! A line with a delay between two network namespaces: a TUN device in each, whole packets passed on after a while, so that TCP's
//! windows and slow start see a true round trip.

use std::collections::VecDeque;
use std::fs::File;
use std::net::TcpStream;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tun_rs::{DeviceBuilder, SyncDevice};

const MTU: u16 = 1500;
/// More than a window of packets.
const QUEUE_PACKETS: u32 = 10_000;
/// A sleep may last so much longer than asked for.
const SLEEP_SLACK: Duration = Duration::from_micros(60);

/// The address at each end of the line.
pub(crate) const ADDRESSES: [&str; 2] = ["10.99.0.1", "10.99.0.2"];

/// Joins two namespaces; says when it is there, ends at the end of standard input.
pub(crate) fn join(namespaces: &[String; 2], one_way: Duration) -> anyhow::Result<()> {
    let home = File::open("/proc/self/ns/net")?;
    let devices = [device(&namespaces[0], ADDRESSES[0])?, device(&namespaces[1], ADDRESSES[1])?];
    move_into_link_name_space(home.as_fd(), Some(LinkNameSpaceType::Network))?;
    for (from, to) in [(0, 1), (1, 0)] {
        let (from, to) = (Arc::clone(&devices[from]), Arc::clone(&devices[to]));
        let (sender, packets) = channel();
        std::thread::spawn(move || pass_on(&packets, &to));
        std::thread::spawn(move || {
            let mut buffer = vec![0; 1 << 16];
            while let Ok(count) = from.recv(&mut buffer) {
                if sender.send((Instant::now() + one_way, buffer[..count].to_vec())).is_err() {
                    return;
                }
            }
        });
    }
    println!("joined");
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    Ok(())
}

/// Makes a device in a namespace. Only this thread enters it.
fn device(namespace: &str, address: &str) -> anyhow::Result<Arc<SyncDevice>> {
    let link = File::open(Path::new("/run/netns").join(namespace)).with_context(|| format!("no namespace {namespace}"))?;
    move_into_link_name_space(link.as_fd(), Some(LinkNameSpaceType::Network))?;
    let device = DeviceBuilder::new()
        .name("line0")
        .ipv4(address, 24, None)
        .mtu(MTU)
        .with(|builder| {
            builder.tx_queue_len(QUEUE_PACKETS);
        })
        .build_sync()
        .context("no TUN device")?;
    Ok(Arc::new(device))
}

fn pass_on(packets: &Receiver<(Instant, Vec<u8>)>, to: &SyncDevice) {
    let mut queue = VecDeque::new();
    loop {
        let (due, packet) = match queue.pop_front() {
            Some(next) => next,
            None => match packets.recv() {
                Ok(next) => next,
                Err(_) => return,
            },
        };
        queue.extend(packets.try_iter());
        let wait = due.saturating_duration_since(Instant::now());
        if wait > SLEEP_SLACK {
            std::thread::sleep(wait.saturating_sub(SLEEP_SLACK));
        }
        // A packet that the other side does not take is lost, as on any line.
        let _lost = to.send(&packet);
    }
}

/// Prints the median of several connects to an address, in milliseconds: one round trip each.
pub(crate) fn round_trip(address: &str) -> anyhow::Result<()> {
    let connect = |_| {
        let begun = Instant::now();
        TcpStream::connect(address).map(|_| begun.elapsed().as_secs_f64() * 1e3)
    };
    let times = (0..9).map(connect).collect::<Result<Vec<_>, _>>()?;
    println!("{}", crate::measure::median(times).context("no connect")?);
    Ok(())
}
