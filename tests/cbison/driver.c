/* A consumer of CBISON in C: many threads drive one factory, each with matchers of its own. */
#include "cbison.h"
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct work {
  struct cbison_factory *factory;
  const char *kind, *grammar;
  const uint32_t *tokens;
  size_t count;
  int rounds;
  uint64_t sum; /* over every mask of one round; the same in all */
  long failures;
};

static uint64_t mix(uint64_t sum, const uint32_t *mask, size_t words) {
  for (size_t i = 0; i < words; i++) sum = (sum ^ mask[i]) * 1099511628211ull;
  return sum;
}

static void round_of(struct work *w, uint32_t *mask, uint32_t *other) {
  struct cbison_factory *f = w->factory;
  struct cbison_matcher *m = f->new_matcher(f, w->kind, w->grammar);
  struct cbison_mask_req request = {m, mask};
  uint64_t sum = 14695981039346656037ull;
  if (!m || f->get_error(m)) { w->failures++; return; }
  for (size_t i = 0; i <= w->count; i++) {
    int32_t code = i % 2 || !f->compute_masks ? f->compute_mask(m, mask, f->mask_byte_len) : f->compute_masks(f, &request, 1);
    w->failures += code != 0;
    sum = mix(sum, mask, f->mask_byte_len / 4);
    if (f->clone_matcher && i % 8 == 0) {
      struct cbison_matcher *twin = f->clone_matcher(m);
      w->failures += f->compute_mask(twin, other, f->mask_byte_len) || memcmp(mask, other, f->mask_byte_len);
      f->free_matcher(twin);
    }
    if (i == w->count) break;
    if (f->validate_tokens) w->failures += f->validate_tokens(m, w->tokens + i, w->count - i) != (int32_t)(w->count - i);
    w->failures += f->consume_tokens(m, w->tokens + i, 1) != 0;
  }
  w->failures += !f->is_accepting(m);
  if (f->rollback) w->failures += f->rollback(m, w->count) != 0;
  f->free_matcher(m);
  if (w->sum && w->sum != sum) w->failures++;
  w->sum = sum;
}

static void *drive_one(void *p) {
  struct work *w = p;
  uint32_t *mask = calloc(2, w->factory->mask_byte_len), *other = mask + w->factory->mask_byte_len / 4;
  for (int i = 0; i < w->rounds; i++) {
    w->factory->incr_ref_count(w->factory);
    round_of(w, mask, other);
    w->factory->decr_ref_count(w->factory);
  }
  free(mask);
  return NULL;
}

/* Failures in all threads; `sums` gets each thread's sum of masks. */
long drive(struct cbison_factory *factory, const char *kind, const char *grammar, const uint32_t *tokens, size_t count,
           int threads, int rounds, uint64_t *sums) {
  pthread_t *ids = calloc(threads, sizeof *ids);
  struct work *all = calloc(threads, sizeof *all);
  long failures = 0;
  for (int i = 0; i < threads; i++) {
    all[i] = (struct work){factory, kind, grammar, tokens, count, rounds, 0, 0};
    if (pthread_create(&ids[i], NULL, drive_one, &all[i])) abort();
  }
  for (int i = 0; i < threads; i++) {
    pthread_join(ids[i], NULL);
    failures += all[i].failures;
    sums[i] = all[i].sum;
  }
  free(ids), free(all);
  return failures;
}
