"""Writes texts under JSON Schemas with the program and validates them with Python's jsonschema.

    pip install jsonschema
    python scripts/constraint/validate.py target/release/bitnet [--model MODEL] [--seeds 8]

Each schema is followed by one greedy text and by sampled ones. A text that was cut short by the limit of tokens or by the
context is counted apart: only complete ones can be valid. Exits with 1 if a complete text is not valid.
"""

import argparse
import collections
import json
import subprocess
import sys

import jsonschema

WORD = {"type": "string", "maxLength": 12}
SCHEMAS = {
    "object": {
        "type": "object",
        "properties": {"name": WORD, "age": {"type": "integer", "minimum": 0, "maximum": 120}, "tall": {"type": "boolean"}},
        "required": ["name", "age"],
        "additionalProperties": False,
    },
    "more properties": {
        "type": "object",
        "properties": {"a": WORD},
        "patternProperties": {"^x[0-9]$": {"type": "number"}},
        "additionalProperties": {"type": "null"},
        "maxProperties": 4,
    },
    "array": {"type": "array", "items": {"enum": ["red", "green", 7, None]}, "minItems": 2, "maxItems": 5},
    "tuple": {"type": "array", "prefixItems": [WORD, {"type": "boolean"}], "items": False, "minItems": 2},
    "numbers": {"type": "array", "items": {"type": "number", "minimum": -1.5, "exclusiveMaximum": 20}, "minItems": 1, "maxItems": 3},
    "multiples": {"type": "integer", "multipleOf": 7, "minimum": 20, "maximum": 9999},
    "pattern": {"type": "string", "pattern": "^[A-Z][a-z]{2,6}( [A-Z]\\.)?$"},
    "lengths": {"type": "string", "minLength": 5, "maxLength": 9},
    "formats": {
        "type": "object",
        "properties": {"day": {"type": "string", "format": "date"}, "at": {"type": "string", "format": "ipv4"}, "id": {"type": "string", "format": "uuid"}},
        "required": ["day", "at", "id"],
        "additionalProperties": False,
    },
    "any of": {"anyOf": [{"type": "integer", "minimum": 5, "maximum": 60}, {"type": "array", "items": WORD, "maxItems": 2}, {"const": "none"}]},
    "one of": {
        "oneOf": [
            {"type": "object", "properties": {"kind": {"const": kind}, kind: WORD}, "required": ["kind", kind], "additionalProperties": False}
            for kind in ("dog", "cat")
        ]
    },
    "all of": {"allOf": [{"type": "object", "properties": {"a": WORD}, "required": ["a"]}, {"properties": {"b": {"type": "null"}}, "required": ["b"], "maxProperties": 3}]},
    "recursion": {
        "$ref": "#/$defs/node",
        "$defs": {
            "node": {
                "type": "object",
                "properties": {"value": {"type": "integer", "minimum": 0, "maximum": 99}, "children": {"type": "array", "items": {"$ref": "#/$defs/node"}, "maxItems": 1}},
                "required": ["value"],
                "additionalProperties": False,
            }
        },
    },
    "anything": {},
}


def write(args, schema, seed):
    command = [args.program, "run", "Once upon a time", "--json", "-n", "450", "--json-schema", json.dumps(schema)]
    command += ["--temp", "0"] if seed == 0 else ["--temp", "1", "--top-p", "0.95", "--seed", str(seed)]
    command += ["--model", args.model] if args.model else []
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{command}\n{done.stderr}")
    return json.loads(done.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("--model")
    parser.add_argument("--seeds", type=int, default=8)
    args = parser.parse_args()
    wrong = 0
    for name, schema in SCHEMAS.items():
        validator = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker())
        counts = collections.Counter()
        for seed in range(args.seeds):
            written = write(args, schema, seed)
            if written["finish_reason"] != "end":
                counts["cut short"] += 1
                continue
            try:
                validator.validate(json.loads(written["text"]))
                counts["valid"] += 1
            except (ValueError, jsonschema.ValidationError) as error:
                counts["not valid"] += 1
                print(f"{name}, seed {seed}: {written['text']!r}: {error}", file=sys.stderr)
        wrong += counts["not valid"]
        print(f"{name}: " + ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items())))
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
