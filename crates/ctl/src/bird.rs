//! `uwsgi-tuntap bird-config`: a configuration for BIRD 2 that goes with a router.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use tuntap_config::{BirdConfig, Config, Feed, Neighbour, OptionName, RouterSpec, bird_config};

use crate::failure::{Done, Failed};
use crate::session::{Session, read_text};
use crate::text::Printable;

/// The AS of the hosts if nothing else is chosen: one for private use (RFC 6996).
const HOSTS_ASN: u32 = 64512;

/// What the configuration is for. What an ini file says may be said by arguments, too, which come first.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The host's identifier among its neighbours: usually its IPv4 address. Without it, BIRD takes an IPv4 address of an interface
    /// other than the router's
    #[arg(long, value_name = "IPV4-ADDRESS")]
    router_id: Option<Ipv4Addr>,
    /// The ini file of the router. Its lines are read as they stand, without uWSGI's placeholders and includes
    #[arg(long, value_name = "FILE")]
    ini: Option<String>,
    /// The device of the router; needed if the ini file has several
    #[arg(long, value_name = "DEVICE")]
    device: Option<String>,
    /// Where the router listens, as in tuntap-router-routes
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<SocketAddr>,
    /// The password file, as in tuntap-router-routes
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// The AS of the router
    #[arg(long, value_name = "NUMBER")]
    router_as: Option<u32>,
    /// Seconds without a message after which either side counts as dead
    #[arg(long, value_name = "SECONDS")]
    hold: Option<u16>,
    /// A network of vassals, may be repeated; all hosts have the same ones
    #[arg(long = "network", value_name = "NETWORK")]
    networks: Vec<IpNet>,
    /// The AS of the hosts
    #[arg(long = "as", value_name = "NUMBER")]
    asn: Option<u32>,
    /// Another host, may be repeated, with its AS if that is another one
    #[arg(long = "neighbour", value_name = "ADDRESS[,AS]", value_parser = neighbour)]
    neighbours: Vec<(IpAddr, Option<u32>)>,
    /// Notice within a third of a second that another host is gone (BFD, UDP ports 3784 and 3785)
    #[arg(long)]
    bfd: bool,
    /// Most routes of each family that another host may announce
    #[arg(long, value_name = "NUMBER", default_value_t = BirdConfig::DEFAULT_MAX_ROUTES)]
    max_routes: u32,
}

fn neighbour(text: &str) -> Result<(IpAddr, Option<u32>), String> {
    let (address, asn) = text.split_once(',').map_or((text, None), |(address, asn)| (address, Some(asn)));
    let address = address.parse().map_err(|_| format!("\"{address}\" is no address"))?;
    let asn = asn.map(|asn| asn.parse().map_err(|_| format!("\"{asn}\" is no number of an AS"))).transpose()?;
    Ok((address, asn))
}

impl Arguments {
    /// Does it.
    ///
    /// # Errors
    /// Something is missing or can't be read.
    pub fn run(self, session: &mut Session<'_>) -> Result<Done, Failed> {
        let text = bird_config(&self.config()?).map_err(|error| Failed::Local(error.to_string()))?;
        session.output.write_all(text.as_bytes())?;
        Ok(Done::Well)
    }

    fn config(self) -> Result<BirdConfig, Failed> {
        let router = self.ini.as_deref().map(|file| router(file, self.device.as_deref())).transpose()?;
        let routes = router.as_ref().and_then(|router| router.hosts.routes.as_ref());
        let missing = |argument: &str| Failed::Local(format!("name {argument}, or an ini file that says it (--ini)"));
        let password = self.password_file.or_else(|| Some(routes?.password.as_ref()?.into()));
        let of_ini = router.iter().flat_map(|router| &router.addresses).map(IpNet::trunc);
        let networks = if self.networks.is_empty() { of_ini.collect() } else { self.networks };
        let asn = self.asn.or(routes.and_then(|routes| routes.neighbour_asn)).unwrap_or(HOSTS_ASN);
        let address = self.listen.or(routes.map(|it| it.address)).ok_or_else(|| missing("--listen"))?;
        Ok(BirdConfig {
            router_id: self.router_id,
            asn,
            feed: Feed {
                address,
                from: routes.filter(|it| it.address == address).map_or_else(|| address.ip(), |it| it.from),
                asn: self.router_as.or(routes.map(|it| it.asn)).unwrap_or(Feed::DEFAULT_ASN),
                password: password.as_deref().map(read_password).transpose()?,
                device: self
                    .device
                    .or_else(|| router.as_ref().map(|it| it.device.clone()))
                    .ok_or_else(|| missing("--device"))?,
                hold_time: self.hold.or(routes.map(|it| it.hold_time)).unwrap_or(Feed::DEFAULT_HOLD_TIME),
            },
            networks,
            neighbours: self
                .neighbours
                .into_iter()
                .map(|(address, of_neighbour)| Neighbour { address, asn: of_neighbour.unwrap_or(asn) })
                .collect(),
            bfd: self.bfd,
            max_routes: self.max_routes,
        })
    }
}

/// The first line of the file, as the plugin reads it.
fn read_password(path: &Path) -> Result<String, Failed> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failed::Local(format!("the password file {}: {error}", Printable(&path.to_string_lossy()))))?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

/// The router of an ini file.
fn router(file: &str, device: Option<&str>) -> Result<RouterSpec, Failed> {
    let local = |text: String| Failed::Local(format!("{}: {text}", Printable(file)));
    let text = read_text(file)?;
    let mut config = Config::from_options(options(&text)).map_err(|errors| local(errors.to_string()))?;
    let found = match device {
        Some(device) => config.routers.iter().position(|router| router.device == device),
        None if config.routers.len() > 1 => {
            return Err(local("it has several routers: name one's --device".to_owned()));
        }
        None => (!config.routers.is_empty()).then_some(0),
    };
    let found = found.ok_or_else(|| local(format!("there is no such {} in it", OptionName::Router.as_str())))?;
    Ok(config.routers.swap_remove(found))
}

/// The plugin's options in an ini file.
fn options(text: &str) -> impl Iterator<Item = (OptionName, &str)> {
    text.lines().filter_map(|line| {
        let (name, value) = line.split_once('=')?;
        Some((OptionName::find(name.trim())?, value.trim()))
    })
}
