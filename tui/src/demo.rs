//! `demo`: a small shop in local pods with background traffic, and a local version of its order service under the layer.
//!
//! Nothing is canned: the services are real processes in real namespaces that call each other by name; their code is in `services.rs`.

mod http;
mod services;

use std::{
    ffi::OsString,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use mirrord_protocol::session::v1::{Mode as WireMode, SetModeRequest, StopRequest};
use mirrord_session::{
    config::{self, Flags, Mode},
    local::{self, PodFile, StartSpec},
    registry,
    spec::SessionSpec,
    target::Target,
};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::{
    ui,
    viewer::{self, Output},
};

/// The service that the demo's session impersonates, and its port.
const TARGET: (&str, u16) = ("shop-orders", 80);
/// Content of the file that only the order pod has.
const ORDERS_FILE: &str = include_str!("../../assets/demo/orders.toml");
/// Content of the file that only the catalog pod has.
const CATALOG_FILE: &str = include_str!("../../assets/demo/catalog.json");

/// Arguments of `demo`.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Print events as lines; without it the terminal UI is used where there is a terminal.
    #[arg(long)]
    headless: bool,
    /// End after this time, e.g. 20s or 2m; without it the demo goes on until Ctrl-C.
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    duration: Option<Duration>,
    /// Show processes, file operations and connections, too.
    #[arg(short, long)]
    verbose: bool,
    /// Do not switch from mirror to steal half way.
    #[arg(long)]
    no_switch: bool,
}

/// Which part of the shop a process of the demo is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Service {
    /// HTTP: items and prices.
    Catalog,
    /// Raw TCP: how many of an item are left.
    Stock,
    /// HTTP: takes orders; asks catalog and stock.
    Orders,
    /// HTTP: what shoppers see; asks catalog and orders.
    Storefront,
    /// Background traffic: asks the storefront a few times a second.
    Shoppers,
}

/// Runs one service of the shop until it is ended.
pub(crate) fn serve(service: Service) -> Result<ExitCode> {
    services::run(service)
}

/// Brings the shop up, runs the session, takes everything down.
pub(crate) fn run(args: &DemoArgs) -> Result<ExitCode> {
    // Whoever ends the demo while its pods start or stop must not leave them behind; a session has handlers of its own beside this one.
    let ended = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&ended)).context("listen to signals")?;
    }
    let exe = std::env::current_exe().context("find this program")?.into_os_string();
    let shop = Shop::open(&exe, &ended)?;
    let result = if ended.load(Ordering::Relaxed) { Ok(()) } else { session(args, &exe) };
    shop.close()?;
    result?;
    Ok(ExitCode::SUCCESS)
}

/// The pods of the demo; they are stopped when it is closed, also after a failure. Dropped without that, e.g. by a panic, it does what
/// it can.
struct Shop {
    open: Vec<&'static str>,
}

impl Shop {
    fn open(exe: &OsString, ended: &AtomicBool) -> Result<Self> {
        let file =
            |path: &str, content: &str| PodFile { path: path.into(), content: content.as_bytes().to_vec() };
        let pods = [
            ("shop-catalog", "catalog", vec![file("/app/catalog.json", CATALOG_FILE)]),
            ("shop-stock", "stock", Vec::new()),
            (TARGET.0, "orders", vec![file("/app/orders.toml", ORDERS_FILE)]),
            ("shop-storefront", "storefront", Vec::new()),
            ("shop-shoppers", "shoppers", Vec::new()),
        ];
        let mut shop = Self { open: Vec::new() };
        for (name, service, files) in pods {
            if ended.load(Ordering::Relaxed) {
                break;
            }
            // What an earlier demo left behind when it was killed is of no use to anybody.
            if local::find(name).is_ok() {
                local::stop(name)?;
            }
            let mut spec = StartSpec::new(name, vec![exe.clone(), "demo-service".into(), service.into()]);
            spec.env.insert("SHOP_REGION".into(), "eu-north".into());
            spec.env.insert("SHOP_DB_PASSWORD".into(), "correct-horse".into());
            spec.files = files;
            if let Err(error) = local::start(&spec) {
                shop.close()?;
                return Err(error).with_context(|| format!("start the demo's pod {name}"));
            }
            shop.open.push(name);
        }
        Ok(shop)
    }

    fn close(mut self) -> Result<()> {
        while let Some(name) = self.open.pop() {
            local::stop(name).with_context(|| format!("stop the demo's pod {name}"))?;
        }
        Ok(())
    }
}

impl Drop for Shop {
    fn drop(&mut self) {
        for name in self.open.drain(..).rev() {
            // There is nobody left to tell.
            drop(local::stop(name));
        }
    }
}

fn session(args: &DemoArgs, exe: &OsString) -> Result<()> {
    let on_screen = !args.headless && args.duration.is_none() && ui::has_terminal();
    let mut env = vec![("SHOP_SERVED_BY".to_owned(), "this machine".to_owned())];
    if on_screen {
        env.push((services::LOG.to_owned(), "1".to_owned()));
    }
    let flags = Flags {
        target: Some(Target::Local(TARGET.0.to_owned())),
        mode: Some(Mode::Mirror),
        ports: vec![(TARGET.1, TARGET.1)],
        env,
        ..Flags::default()
    };
    let resolved = config::resolve(config::file::FileConfig::default(), &flags, std::path::Path::new("."))?;
    let command = vec![exe.clone(), "demo-service".into(), "orders".into()];
    let mut spec = SessionSpec::for_caller(Target::Local(TARGET.0.to_owned()), resolved.config, command)?;
    spec.equal_command = "mirrord-tui demo".to_owned();
    if on_screen {
        return ui::run_session(spec, true, &resolved.warnings).map(drop);
    }
    let script = script(spec.id.clone(), args.duration, !args.no_switch);
    // The command ends by the signal of the stop, which is how the demo shall end.
    viewer::own_with(&spec, Output::text(None, args.verbose), &resolved.warnings, script).map(drop)
}

/// What happens during a demo: half way the port is switched to steal, at the end the session is stopped.
async fn script(id: String, duration: Option<Duration>, switch: bool) -> Result<()> {
    let half = duration.unwrap_or(Duration::from_secs(20)) / 2;
    tokio::time::sleep(half).await;
    let mut client = registry::connect(&id).await?;
    if switch {
        let request = SetModeRequest { port: TARGET.1.into(), mode: WireMode::Steal.into() };
        client.set_mode(request).await.context("switch the demo's port to steal")?;
    }
    if let Some(duration) = duration {
        tokio::time::sleep(duration - half).await;
        client.stop(StopRequest { kill: false }).await.context("stop the demo's session")?;
    }
    Ok(())
}

/// `90`, `20s`, `2m`, `1h`.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text.get(digits.len()..) {
        Some("" | "s") => 1,
        Some("m") => 60,
        Some("h") => 3600,
        _ => return Err(format!("`{text}` is not a time: write 20s, 2m or 1h")),
    };
    digits
        .parse::<u64>()
        .map(|count| Duration::from_secs(count * unit))
        .map_err(|_| format!("`{text}` is not a time: write 20s, 2m or 1h"))
}
