//! Probes inside new namespaces, all in one child: what the session netns and the agent's rules need.

use std::os::fd::OwnedFd;

use super::{Answer, Question, child};
use crate::{
    Flow, Transport,
    capture::{Capture, CaptureOptions},
    conntrack::Conntrack,
    netlink::Family,
    nfqueue::Queue,
    nft::{NftError, QueueForm, SessionTable},
    ns::{self, Kind, UserMap},
    rtnl::{LOOPBACK, Rtnl},
};

/// Number of a queue in a namespace of its own.
const QUEUE: u16 = 7;
const PORT: u16 = 9;

/// Asks all of [`Question::INSIDE`].
pub(super) fn answers() -> Vec<(Question, Answer)> {
    let text = child::answer(|| {
        let mut blocked = None;
        let mut lines = String::new();
        for question in Question::INSIDE {
            let answer = blocked.clone().map_or_else(|| ask(question), Err);
            if matches!(question, Question::UserNamespace | Question::Netns) && answer.is_err() {
                blocked.get_or_insert_with(|| format!("not asked, because {} failed", question.name()));
            }
            let (sign, text) = match &answer {
                Ok(found) => ('+', found),
                Err(reason) => ('-', reason),
            };
            lines.push(sign);
            lines.push_str(&text.replace('\n', " "));
            lines.push('\n');
        }
        lines
    });
    let text = text.unwrap_or_else(|error| format!("-{error}\n"));
    let mut lines = text.lines();
    let mut next = || {
        let line = lines.next().unwrap_or("-the probe ended before it was asked");
        match line.strip_prefix('+') {
            Some(found) => Ok(found.to_owned()),
            None => Err(line.trim_start_matches('-').to_owned()),
        }
    };
    Question::INSIDE.iter().map(|question| (*question, next())).collect()
}

fn ask(question: Question) -> Answer {
    match question {
        Question::UserNamespace => user_namespace(),
        Question::Netns => netns(),
        Question::NftOwner => nft_owner(),
        Question::Nfqueue => nfqueue(),
        Question::NftRedirect => redirect().map(|_| "ports can be redirected".to_owned()),
        Question::Conntrack => conntrack(),
        Question::Capture => capture(),
        Question::SeccompListener | Question::PidfdGetfd | Question::ProcessVmReadv | Question::Fuse => {
            Err("is asked elsewhere".to_owned())
        }
    }
}

fn user_namespace() -> Answer {
    if rustix::process::geteuid().is_root() {
        return Ok("not needed as root".to_owned());
    }
    ns::enter_user_namespace(UserMap::Identity, &[]).map_err(|error| because(&error))?;
    Ok("an ordinary user may make one".to_owned())
}

fn netns() -> Answer {
    ns::unshare(&[Kind::Net]).map_err(|error| because(&error))?;
    let up = Rtnl::open().and_then(|rtnl| rtnl.set_up(LOOPBACK));
    up.map_err(|error| because(&error))?;
    ns::set_sysctl("net/ipv4/ip_unprivileged_port_start", "0").map_err(|error| because(&error))?;
    Ok("one can be made and set up".to_owned())
}

fn redirect() -> Result<SessionTable, String> {
    SessionTable::install_redirect_only(netfilter()?, PORT, PORT).map_err(|error| because(&error))
}

fn nft_owner() -> Answer {
    let table = redirect()?;
    let second = redirect();
    drop(table);
    match second {
        Err(_) => Ok("tables go when their owner does".to_owned()),
        Ok(_) => Err("the kernel does not know the owner flag of tables".to_owned()),
    }
}

fn nfqueue() -> Answer {
    let _queue = Queue::from_socket(netfilter()?, QUEUE).map_err(|error| because(&error))?;
    match SessionTable::install(netfilter()?, QUEUE) {
        Ok(table) if table.form() == QueueForm::Native => Ok("nf_tables' own queue".to_owned()),
        Ok(_) => Ok("xtables' NFQUEUE through nft_compat".to_owned()),
        Err(error @ NftError::NoQueue) => Err(error.to_string()),
        Err(error) => Err(because(&error)),
    }
}

fn conntrack() -> Answer {
    let unknown = Flow {
        transport: Transport::Tcp,
        src: ([192, 0, 2, 1], PORT).into(),
        dst: ([192, 0, 2, 2], PORT).into(),
    };
    let found = Conntrack::from_socket(netfilter()?).lookup(&unknown).map_err(|error| because(&error))?;
    found.map_or_else(
        || Ok("flows can be looked up".to_owned()),
        |flow| Err(format!("unexpected flow {flow}")),
    )
}

fn capture() -> Answer {
    let options = CaptureOptions { blocks: 2, interfaces: Vec::new() };
    Capture::open(&options, &[PORT]).map_err(|error| because(&error))?;
    Ok("TPACKET_V3 ring".to_owned())
}

fn netfilter() -> Result<OwnedFd, String> {
    Family::Netfilter.socket().map_err(|error| because(&error))
}

/// An error with its causes in one line.
fn because(error: &impl std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
