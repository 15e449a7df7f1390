"""Writes the tiny checkpoints of tests/golden/models and what transformers computes with them.

    python scripts/golden/models.py [--out tests/golden/models] [--only CASE ...]

Same packages (requirements.txt) and same seed give the same files.
"""

import argparse
import os
import sys
from pathlib import Path

os.environ["TORCHDYNAMO_DISABLE"] = "1"  # the quantisers run as written, not as a compiler fuses them
os.environ["HF_HUB_OFFLINE"] = "1"
HERE = Path(__file__).resolve().parent
# This folder also holds a tokenizers.py: it must not shadow the package of that name, so it goes last on the path.
sys.path = [p for p in sys.path if Path(p or ".").resolve() != HERE] + [str(HERE)]

import torch  # noqa: E402

from modelkit import cases, codecs  # noqa: E402


def main():
    """Writes the chosen cases."""
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--out", type=Path, default=HERE.parents[1] / "tests/golden/models")
    ap.add_argument("--only", nargs="*", help="names of cases, all when absent")
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    codecs.check_against_gguf()
    for name, make in cases.ALL.items():
        if not args.only or name in args.only:
            make(args.out / name)
            size = sum(f.stat().st_size for f in (args.out / name).iterdir())
            print(f"{name}: {size} bytes", flush=True)


if __name__ == "__main__":
    main()
