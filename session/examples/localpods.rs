//! Local pods without the rest of the program: `start NAME PORT:PORT|- -- CMD...`, `ls`, `stop NAME`, `exec NAME CMD...`, ...

use std::{ffi::OsString, os::unix::process::CommandExt, process::ExitCode, time::Instant};

use mirrord_session::{
    local::{self, LocalError, StartSpec},
    role::Role,
};

fn main() -> ExitCode {
    if let Some(role) = Role::from_args(std::env::args_os()) {
        return ExitCode::from(role.run());
    }
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut text = error.to_string();
            let mut source = std::error::Error::source(&error);
            while let Some(cause) = source {
                text.push_str(&format!(": {cause}"));
                source = cause.source();
            }
            eprintln!("error: {text}\nhint: {}", error.hint().unwrap_or_default());
            ExitCode::from(error.exit_code())
        }
    }
}

fn run(args: &[OsString]) -> Result<(), LocalError> {
    let word = |n: usize| args.get(n).and_then(|arg| arg.to_str()).unwrap_or_default();
    match word(0) {
        "start" => {
            let mut spec = StartSpec::new(word(1), args.iter().skip(4).cloned());
            if word(2) != "-" {
                spec.publish = word(2).split(',').map(str::parse).collect::<Result<_, _>>()?;
            }
            let before = Instant::now();
            let pod = local::start(&spec)?;
            println!("{pod:?}\nup in {:?}", before.elapsed());
        }
        "ls" => local::list()?.iter().for_each(|pod| println!("{pod:?}")),
        "stop" => local::stop(word(1))?,
        "stop-all" => println!("{} stopped", local::stop_all()?),
        "exec" => panic!("{}", local::exec_command(word(1), args.get(2..).unwrap_or_default())?.exec()),
        "node-exec" => panic!("{}", local::node_exec_command(args.get(1..).unwrap_or_default())?.exec()),
        "dial" => {
            let dialer = local::Dialer::open(word(1))?;
            let port = word(2).parse().expect("a port");
            let before = Instant::now();
            for _ in 0..1000 {
                dialer.dial(port)?;
            }
            println!("{:?} for each of 1000", before.elapsed() / 1000);
        }
        other => panic!("what is {other}?"),
    }
    Ok(())
}
