/* Our own declaration of CBISON 1.0 (the layout with two reference-count slots). */
#ifndef TEST_CBISON_H
#define TEST_CBISON_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct cbison_tokenizer {
  uint32_t magic, impl_magic, version_major, version_minor;
  size_t n_vocab;
  uint32_t eos_token_id;
  bool tokenize_bytes_requires_utf8;
  uint32_t reserved_hd[6];
  void *impl_data;
  int (*get_token)(struct cbison_tokenizer *, uint32_t, uint8_t *, size_t);
  int (*is_special_token)(struct cbison_tokenizer *, uint32_t);
  size_t (*tokenize_bytes)(struct cbison_tokenizer *, const char *, size_t, uint32_t *, size_t);
  void (*incr_ref_count)(struct cbison_tokenizer *);
  void (*decr_ref_count)(struct cbison_tokenizer *);
  void *reserved_ptr[16];
};

struct cbison_matcher;

struct cbison_mask_req {
  struct cbison_matcher *matcher;
  uint32_t *mask_dest;
};

struct cbison_factory {
  uint32_t magic, impl_magic, version_major, version_minor;
  size_t n_vocab;
  size_t mask_byte_len;
  uint32_t eos_token_id;
  uint32_t reserved_hd[7];
  void *impl_data;
  void (*incr_ref_count)(struct cbison_factory *);
  void (*decr_ref_count)(struct cbison_factory *);
  int32_t (*validate_grammar)(struct cbison_factory *, const char *, const char *, char *, size_t);
  struct cbison_matcher *(*new_matcher)(struct cbison_factory *, const char *, const char *);
  const char *(*get_error)(struct cbison_matcher *);
  int32_t (*compute_mask)(struct cbison_matcher *, uint32_t *, size_t);
  int32_t (*consume_tokens)(struct cbison_matcher *, const uint32_t *, size_t);
  bool (*is_accepting)(struct cbison_matcher *);
  bool (*is_stopped)(struct cbison_matcher *);
  int32_t (*validate_tokens)(struct cbison_matcher *, const uint32_t *, size_t);
  int32_t (*compute_ff_tokens)(struct cbison_matcher *, uint32_t *, size_t);
  void (*free_matcher)(struct cbison_matcher *);
  int32_t (*rollback)(struct cbison_matcher *, size_t);
  int32_t (*reset)(struct cbison_matcher *);
  struct cbison_matcher *(*clone_matcher)(struct cbison_matcher *);
  int32_t (*compute_masks)(struct cbison_factory *, struct cbison_mask_req *, size_t);
  void *reserved_ptr[16];
};
#endif
