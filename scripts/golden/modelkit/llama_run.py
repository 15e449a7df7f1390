"""Logits of a GGUF file by llama.cpp, for the files that it can read."""

import numpy as np


def logits(path, tokens):
    """`[T, vocab]` float32, or the reason (a string) why llama.cpp does not read the file."""
    import llama_cpp

    try:
        model = llama_cpp.Llama(str(path), n_ctx=64, n_batch=64, n_threads=1, n_threads_batch=1, logits_all=True,
                                flash_attn=False, type_k=0, type_v=0, verbose=False)
    except ValueError as e:
        return str(e).split(":")[0]
    model.eval([int(t) for t in tokens])
    out = np.array(model.scores[: len(tokens)], np.float32)
    model.close()
    return out
