//! `e2e-tool`: the small programs that run in pods, on the node and under sessions of the end-to-end tests. Those that measure
//! something print one JSON object; those that serve print `listening PORT` first.

mod clerk;
mod customers;
mod paced;
mod streams;

use anyhow::{Context, Result, bail};
use serde_json::Value;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match args.as_slice() {
        ["clerk", port, name, log] => clerk::run(port.parse()?, name, log)?,
        ["customers", address, connections, log] => {
            // They stand for other machines: 200 busy threads shall not take the processors from the session that is tested.
            rustix::process::nice(19).context("the lowest priority")?;
            customers::run(address.parse()?, connections.parse()?, log)?
        }
        ["paced", address, connections, rate, seconds] => {
            paced::run(address.parse()?, connections.parse()?, rate.parse()?, seconds.parse()?)?
        }
        ["hold", address, connections] => streams::hold(address.parse()?, connections.parse()?)?,
        ["deaf", port] => streams::deaf(port.parse()?)?,
        ["flood", address] => streams::flood(address.parse()?)?,
        ["post", address, bytes] => streams::post(address.parse()?, bytes.parse()?)?,
        ["talk", address, line] => streams::talk(address.parse()?, line)?,
        _ => bail!("unknown call {args:?}"),
    };
    if result != Value::Null {
        println!("{result}");
    }
    Ok(())
}
