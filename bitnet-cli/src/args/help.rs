//! Texts of the help that belong to no single option.

pub(super) const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    a check failed (verify, doctor)
  2    wrong usage, or an input that can't be used
  130  interrupted (Ctrl-C)

Environment:
  BITNET_ISA  force an instruction set level (scalar, avx2, avxvnni, avx512vnni, neon, neon-dotprod)
  NO_COLOR    no colours";
