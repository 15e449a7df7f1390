/* A QEMU plugin that counts the instructions of a program and lists the blocks that hold most of them. */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The part of QEMU's plugin interface, version 1, that is used here: distributions do not ship the header. */
struct qemu_plugin_tb;
struct qemu_plugin_insn;
typedef uint64_t qemu_plugin_id_t;
typedef struct qemu_info qemu_info_t;
enum { MEMORY_NONE = 0, INLINE_ADD_U64 = 0 };
typedef void (*at_translation)(qemu_plugin_id_t, struct qemu_plugin_tb *);
typedef void (*at_exit)(qemu_plugin_id_t, void *);
void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, at_translation);
void qemu_plugin_register_atexit_cb(qemu_plugin_id_t, at_exit, void *);
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *, int, void *, uint64_t);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *);
char *qemu_plugin_insn_disas(const struct qemu_plugin_insn *);
__attribute__((visibility("default"))) int qemu_plugin_version = 1;

struct block {
    struct block *next;
    uint64_t times, address;
    size_t length;
    char *text;
};
static struct block *blocks;
static int listed;
static const char *file;

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *tb) {
    (void)id;
    struct block *block = calloc(1, sizeof *block);
    block->length = qemu_plugin_tb_n_insns(tb);
    block->address = qemu_plugin_insn_vaddr(qemu_plugin_tb_get_insn(tb, 0));
    if (listed) {
        block->text = calloc(block->length, 96);
        for (size_t i = 0; i < block->length; i++) {
            char *line = qemu_plugin_insn_disas(qemu_plugin_tb_get_insn(tb, i));
            snprintf(block->text + strlen(block->text), 96, "    %.88s\n", line);
            free(line);
        }
    }
    /* User-mode emulation translates under a lock. A block translated twice stands in the list twice. */
    block->next = blocks;
    blocks = block;
    qemu_plugin_register_vcpu_tb_exec_inline(tb, INLINE_ADD_U64, &block->times, 1);
}

static void finished(qemu_plugin_id_t id, void *nothing) {
    (void)id, (void)nothing;
    FILE *out = file ? fopen(file, "w") : stderr;
    uint64_t total = 0;
    for (struct block *b = blocks; b; b = b->next) total += b->times * b->length;
    fprintf(out, "%llu\n", (unsigned long long)total);
    for (int i = 0; i < listed; i++) {
        struct block *most = NULL;
        for (struct block *b = blocks; b; b = b->next)
            if (!most || b->times * b->length > most->times * most->length) most = b;
        if (!most || !most->times) break;
        fprintf(out, "%llu instructions: %llu times %zu at %#llx\n%s", (unsigned long long)(most->times * most->length),
                (unsigned long long)most->times, most->length, (unsigned long long)most->address, most->text);
        most->times = 0;
    }
    if (file) fclose(out);
}

__attribute__((visibility("default"))) int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc, char **argv) {
    (void)info;
    for (int i = 0; i < argc; i++) {
        if (!strncmp(argv[i], "list=", 5)) listed = atoi(argv[i] + 5);
        if (!strncmp(argv[i], "into=", 5)) file = strdup(argv[i] + 5);
    }
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_atexit_cb(id, finished, NULL);
    return 0;
}
