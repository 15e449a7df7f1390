//! Help texts that belong to no single option, and the split between `--help` and `--help-all`.

use clap::{Command, CommandFactory};

use super::Cli;

/// Help on model names, exit codes and environment variables.
const AFTER: &str = "\
Models:
  An existing path is used directly. hf:OWNER/NAME is a model on a hub; so is OWNER/NAME if no
  file or folder OWNER exists and NAME has no file extension (.gguf, .safetensors, ...).
  OWNER/NAME@REVISION and OWNER/NAME:FILE select a revision and a file.

Exit codes:
  0    success
  1    a check failed (verify, doctor, inspect --diff)
  2    usage error or unusable input
  130  interrupted (Ctrl-C)
  143  terminated (SIGTERM)

Environment:
  BITNET_CACHE  folder for prepared weights (`bitnet cache`) [default: the user's cache folder]
  BITNET_ISA    force an instruction set (scalar, avx2, avxvnni, avx512vnni, amx, neon, neon-dotprod)
  HF_HOME, HF_HUB_CACHE, HF_HUB_OFFLINE, HF_TOKEN, HF_ENDPOINT  see bitnet help pull
  NO_COLOR      no colours";

/// Returns the command definition with all help texts.
pub(crate) fn command() -> Command {
    let root = Cli::command().after_help(AFTER);
    let names: Vec<String> =
        root.get_subcommands().map(|command| command.get_name().to_owned()).collect();
    names.into_iter().fold(root, |root, name| {
        root.mut_subcommand(&name, |command| {
            let more = format!("bitnet {name} --help-all lists all options.");
            let own = command.get_after_help().map(ToString::to_string);
            let all = own.clone().unwrap_or_default();
            let short = own.map_or(more.clone(), |own| format!("{own}\n\n{more}"));
            command.after_help(short).after_long_help(all)
        })
    })
}
