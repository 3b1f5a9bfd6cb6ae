//! `gen-config`, `completions` and `man`: texts made from the tables of the program, so that they cannot be out of date.

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::CommandFactory;
use clap_complete::Shell;

use super::Cli;
use crate::{output::print, ui};

/// The sample of the UI's settings.
pub(super) fn settings() -> Result<ExitCode> {
    print(&ui::sample_config())?;
    Ok(ExitCode::SUCCESS)
}

/// Completions of a shell.
pub(super) fn completions(shell: Shell) -> Result<ExitCode> {
    print(&completion_script(shell))?;
    Ok(ExitCode::SUCCESS)
}

fn completion_script(shell: Shell) -> String {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "mirrord-tui", &mut text);
    String::from_utf8_lossy(&text).into_owned()
}

/// The manual page in roff, with the keys of the UI.
pub(super) fn manual() -> Result<ExitCode> {
    print(&page()?)?;
    Ok(ExitCode::SUCCESS)
}

fn page() -> Result<String> {
    let mut text = Vec::new();
    clap_mangen::Man::new(Cli::command()).render(&mut text).context("make the manual page")?;
    let mut page = String::from_utf8_lossy(&text).into_owned();
    page.push_str(".SH KEYS\n");
    for (context, rows) in ui::key_table() {
        page.push_str(&format!(".SS {context}\n"));
        for (keys, help) in rows {
            let keys = keys.replace('\\', "\\e").replace('-', "\\-");
            page.push_str(&format!(".TP\n.B \\&{keys}\n\\&{help}\n"));
        }
    }
    Ok(page)
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn every_shell_completes_every_command() {
        for shell in Shell::value_variants() {
            let script = completion_script(*shell);
            for sub in Cli::command().get_subcommands().filter(|sub| !sub.is_hide_set()) {
                assert!(script.contains(sub.get_name()), "{shell}: {}", sub.get_name());
            }
        }
    }

    #[test]
    fn the_manual_has_every_command_and_every_key() {
        let page = page().unwrap();
        for sub in Cli::command().get_subcommands().filter(|sub| !sub.is_hide_set()) {
            let name = sub.get_name().replace('-', "\\-");
            assert!(page.contains(&name), "{name}");
        }
        for (context, rows) in ui::key_table() {
            assert!(page.contains(&format!(".SS {context}\n")), "{context}");
            assert!(rows.iter().all(|(_, help)| page.contains(help)), "{context}");
        }
    }

    #[test]
    fn the_command_line_is_consistent_and_has_no_command_without_help() {
        let command = Cli::command();
        command.clone().debug_assert();
        for sub in command.get_subcommands() {
            assert!(sub.get_about().is_some(), "{}", sub.get_name());
        }
    }
}
