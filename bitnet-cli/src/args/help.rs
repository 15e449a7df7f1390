//! The help: texts that belong to no single option, and which options `--help` leaves to `--help-all`.

use clap::{Command, CommandFactory};

use super::Cli;

/// Models on the command line, exit codes, and the environment.
const AFTER: &str = "\
Models:
  A path that exists is used as it is. hf:OWNER/NAME is a model on a hub; so is OWNER/NAME if no
  file or folder OWNER is there and NAME does not end like a file (.gguf, .safetensors, ...).
  OWNER/NAME@REVISION and OWNER/NAME:FILE name a revision and a file.

Exit codes:
  0    done
  1    a check failed (verify, doctor, inspect --diff)
  2    wrong usage, or an input that can't be used
  130  interrupted (Ctrl-C)
  143  ended by SIGTERM

Environment:
  BITNET_CACHE  the folder for prepared weights (`bitnet cache`) [default: the user's cache folder]
  BITNET_ISA    force an instruction set (scalar, avx2, avxvnni, avx512vnni, neon, neon-dotprod)
  HF_HOME, HF_HUB_CACHE, HF_HUB_OFFLINE, HF_TOKEN, HF_ENDPOINT  for models on a hub: bitnet help pull
  NO_COLOR      no colours";

/// The command line with all that its help says.
pub(super) fn command() -> Command {
    let root = Cli::command().after_help(AFTER);
    let names: Vec<String> =
        root.get_subcommands().map(|command| command.get_name().to_owned()).collect();
    names.into_iter().fold(root, |root, name| {
        root.mut_subcommand(&name, |command| {
            let more =
                format!("bitnet {name} --help-all lists the options that are left out here.");
            let own = command.get_after_help().map(ToString::to_string);
            let all = own.clone().unwrap_or_default();
            let short = own.map_or(more.clone(), |own| format!("{own}\n\n{more}"));
            command.after_help(short).after_long_help(all)
        })
    })
}
