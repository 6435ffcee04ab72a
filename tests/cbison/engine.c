/* A small grammar engine behind CBISON, which shares no code with the engines it is compared with.
 *
 * A grammar is a regular expression over ASCII (literals, escapes, \d, classes, groups, | * + ? {m} {m,n}) or a JSON schema
 * of objects with fixed properties, enums, constants, booleans, null and integers, which becomes a regular expression
 * without spaces. It is compiled to a nondeterministic automaton, and a matcher is a set of its states.
 *
 * The options choose faults, each by its name; "bare" leaves all optional slots out.
 */
#include "cbison.h"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- memory, counted ---- */

static long live_allocations, live_matchers, live_factories;

static void *take(size_t size) {
  void *p = calloc(1, size ? size : 1);
  if (!p) abort();
  __atomic_add_fetch(&live_allocations, 1, __ATOMIC_SEQ_CST);
  return p;
}
static void give(void *p) {
  if (!p) return;
  __atomic_sub_fetch(&live_allocations, 1, __ATOMIC_SEQ_CST);
  free(p);
}
long toy_live_allocations(void) { return __atomic_load_n(&live_allocations, __ATOMIC_SEQ_CST); }
long toy_live_matchers(void) { return __atomic_load_n(&live_matchers, __ATOMIC_SEQ_CST); }
long toy_live_factories(void) { return __atomic_load_n(&live_factories, __ATOMIC_SEQ_CST); }

/* ---- regular expressions ---- */

enum { MAX_STATES = 1024, MAX_NODES = 2048 };
typedef struct { uint64_t bits[MAX_STATES / 64]; } states;
typedef struct { enum { CHAR, SPLIT, MATCH } kind; int a, b; uint8_t class[32]; } state;
typedef struct { int start, size, refs; state all[MAX_STATES]; } automaton;
typedef struct { enum { N_EMPTY, N_CHAR, N_CAT, N_ALT, N_REPEAT } kind; int a, b, least, most; uint8_t class[32]; } node;
typedef struct { const char *at; node nodes[MAX_NODES]; int size; automaton *out; const char *error; } parser;

static int fresh_node(parser *p, int kind, int a, int b) {
  if (p->size == MAX_NODES) { p->error = "the expression is too long"; return 0; }
  node *n = &p->nodes[p->size];
  memset(n, 0, sizeof *n);
  n->kind = kind, n->a = a, n->b = b;
  return p->size++;
}
static void put(uint8_t *class, int c) { class[c / 8] |= 1 << c % 8; }
static int has(const uint8_t *class, int c) { return class[c / 8] >> c % 8 & 1; }

static int alternation(parser *p);

static int escaped(parser *p, uint8_t *class) {
  int c = (unsigned char)*p->at++;
  if (c == 'd') for (int i = '0'; i <= '9'; i++) put(class, i);
  else if (c == 'n') put(class, '\n');
  else if (c) put(class, c);
  else p->at--, p->error = "a lone backslash";
  return c;
}
static int class(parser *p) {
  int n = fresh_node(p, N_CHAR, 0, 0), negated = *p->at == '^';
  uint8_t found[32] = {0};
  p->at += negated;
  while (*p->at && *p->at != ']') {
    int low = (unsigned char)*p->at++;
    if (low == '\\') { escaped(p, found); continue; }
    int high = low;
    if (p->at[0] == '-' && p->at[1] != ']') high = (unsigned char)p->at[1], p->at += 2;
    for (int c = low; c <= high; c++) put(found, c);
  }
  if (*p->at != ']') p->error = "an unclosed class"; else p->at++;
  for (int c = 0; c < 128; c++) if (has(found, c) != negated) put(p->nodes[n].class, c);
  return n;
}
static int atom(parser *p) {
  int c = (unsigned char)*p->at++;
  if (c == '[') return class(p);
  if (c == '(') {
    if (p->at[0] == '?' && p->at[1] == ':') p->at += 2;
    int n = alternation(p);
    if (*p->at != ')') p->error = "an unclosed group"; else p->at++;
    return n;
  }
  if (c == '*' || c == '+' || c == '?') p->error = "nothing to repeat";
  int n = fresh_node(p, N_CHAR, 0, 0);
  if (c == '\\') escaped(p, p->nodes[n].class); else put(p->nodes[n].class, c);
  return n;
}
static int repetition(parser *p) {
  int n = atom(p);
  while (!p->error && *p->at && strchr("*+?{", *p->at)) {
    int c = *p->at++, least = c == '+', most = c == '?' ? 1 : -1;
    if (c == '{') {
      char *end;
      least = most = strtol(p->at, &end, 10);
      if (*end == ',') most = strtol(end + 1, &end, 10);
      if (*end != '}' || least < 0 || most < least) { p->error = "a wrong count"; return n; }
      p->at = end + 1;
    }
    n = fresh_node(p, N_REPEAT, n, 0);
    p->nodes[n].least = least, p->nodes[n].most = most;
  }
  return n;
}
static int sequence(parser *p) {
  int n = fresh_node(p, N_EMPTY, 0, 0);
  while (!p->error && *p->at && *p->at != '|' && *p->at != ')') { int right = repetition(p); n = fresh_node(p, N_CAT, n, right); }
  return n;
}
static int alternation(parser *p) {
  int n = sequence(p);
  while (!p->error && *p->at == '|') { p->at++; int right = sequence(p); n = fresh_node(p, N_ALT, n, right); }
  return n;
}
static int fresh_state(parser *p, int kind, int a, int b) {
  if (p->out->size == MAX_STATES) { p->error = "the automaton is too large"; return 0; }
  state *s = &p->out->all[p->out->size];
  memset(s, 0, sizeof *s);
  s->kind = kind, s->a = a, s->b = b;
  return p->out->size++;
}
/* The first state of what `n` matches and `next` follows. */
static int emit(parser *p, int n, int next) {
  node *at = &p->nodes[n];
  if (p->error) return next;
  switch (at->kind) {
    case N_EMPTY: return next;
    case N_CHAR: { int s = fresh_state(p, CHAR, next, 0); memcpy(p->out->all[s].class, at->class, 32); return s; }
    case N_CAT: return emit(p, at->a, emit(p, at->b, next));
    case N_ALT: { int left = emit(p, at->a, next), right = emit(p, at->b, next); return fresh_state(p, SPLIT, left, right); }
    case N_REPEAT: break;
  }
  if (at->most < 0) {
    int loop = fresh_state(p, SPLIT, next, next);
    p->out->all[loop].a = emit(p, at->a, loop);
    next = loop;
  }
  for (int i = at->least; i < at->most; i++) { int one = emit(p, at->a, next); next = fresh_state(p, SPLIT, one, next); }
  for (int i = 0; i < at->least; i++) next = emit(p, at->a, next);
  return next;
}
/* NULL with a reason where it does not parse. */
static automaton *compiled(const char *expression, const char **why) {
  parser *p = take(sizeof *p);
  p->at = expression;
  p->out = take(sizeof *p->out);
  p->out->refs = 1;
  int root = alternation(p);
  if (!p->error && *p->at) p->error = "a group that was never opened";
  if (!p->error) p->out->start = emit(p, root, fresh_state(p, MATCH, 0, 0));
  automaton *out = p->out;
  *why = p->error;
  if (p->error) give(out), out = NULL;
  give(p);
  return out;
}

/* ---- sets of states ---- */

static void reach(const automaton *m, states *set, int s) {
  if (set->bits[s / 64] >> s % 64 & 1) return;
  set->bits[s / 64] |= 1ull << s % 64;
  if (m->all[s].kind == SPLIT) reach(m, set, m->all[s].a), reach(m, set, m->all[s].b);
}
static int step(const automaton *m, states *set, int byte) {
  states next = {{0}};
  int any = 0;
  for (int w = 0; w <= m->size / 64; w++)
    for (uint64_t left = set->bits[w]; left; left &= left - 1) {
      int s = w * 64 + __builtin_ctzll(left);
      if (m->all[s].kind == CHAR && has(m->all[s].class, byte)) reach(m, &next, m->all[s].a), any = 1;
    }
  *set = next;
  return any;
}
static int accepts(const automaton *m, const states *set) { return set->bits[0] & 1; } /* state 0 is the match */
/* The bytes that can come next, into `class`; how many. */
static int followers(const automaton *m, const states *set, uint8_t *class) {
  int count = 0;
  memset(class, 0, 32);
  for (int s = 0; s < m->size; s++)
    if (set->bits[s / 64] >> s % 64 & 1 && m->all[s].kind == CHAR)
      for (int i = 0; i < 32; i++) class[i] |= m->all[s].class[i];
  for (int c = 0; c < 256; c++) count += has(class, c);
  return count;
}

/* ---- JSON schemas ---- */

typedef struct { char text[8192]; size_t size; const char *error; } writer;

static void write_char(writer *w, char c) {
  if (w->size + 1 >= sizeof w->text) w->error = "the schema is too long"; else w->text[w->size++] = c;
}
static void write_text(writer *w, const char *s) { while (*s) write_char(w, *s++); }
static const char *blank(const char *s) { while (*s && strchr(" \t\r\n", *s)) s++; return s; }
static const char *skip(const char *s) { /* past one value */
  int depth = 0;
  s = blank(s);
  do {
    if (*s == '"') { for (s++; *s && *s != '"'; s++) if (*s == '\\' && s[1]) s++; if (*s) s++; }
    else if (*s == '{' || *s == '[') depth++, s++;
    else if (*s == '}' || *s == ']') depth--, s++;
    else if (depth) s++;
    else while (*s && !strchr(",}] \t\r\n", *s)) s++;
  } while (*s && depth > 0);
  return s;
}
/* The next (key, value) of an object; `at` begins at its brace. */
static const char *member(const char **at, const char **key, size_t *length) {
  const char *s = blank(*at + (**at == '{' || **at == ','));
  if (*s != '"') return NULL;
  const char *end = skip(s);
  *key = s, *length = end - s;
  s = blank(end);
  if (*s != ':') return NULL;
  s = blank(s + 1);
  *at = blank(skip(s));
  return s;
}
static const char *find(const char *object, const char *name) {
  const char *at = blank(object), *key, *value;
  size_t length, size = strlen(name);
  if (*at != '{') return NULL;
  while ((value = member(&at, &key, &length)))
    if (length == size + 2 && !strncmp(key + 1, name, size)) return value;
  return NULL;
}
static void literal(writer *w, const char *value) {
  const char *end = skip(value);
  for (; value < end; value++) {
    if (strchr("\\.[](){}*+?|^$-", *value)) write_char(w, '\\');
    write_char(w, *value);
  }
}
static int is(const char *value, const char *text) { return value && !strncmp(value + 1, text, strlen(text)) && value[strlen(text) + 1] == '"'; }
static void schema(writer *w, const char *s) {
  const char *type = find(s, "type"), *options = find(s, "enum"), *fixed = find(s, "const"), *key, *value;
  size_t length;
  if (fixed) { literal(w, fixed); return; }
  if (options) {
    write_char(w, '(');
    for (const char *at = blank(options + 1); *at && *at != ']'; at = blank(skip(at))) {
      if (*at == ',') at = blank(at + 1), write_char(w, '|');
      literal(w, at);
    }
    write_char(w, ')');
  } else if (is(type, "boolean")) write_text(w, "(true|false)");
  else if (is(type, "null")) write_text(w, "null");
  else if (is(type, "integer")) write_text(w, "-?(0|[1-9][0-9]*)");
  else if (is(type, "object")) {
    const char *at = find(s, "properties");
    int first = 1;
    write_text(w, "\\{");
    while (at && (value = member(&at, &key, &length))) {
      if (!first) write_char(w, ',');
      first = 0;
      literal(w, key);
      write_char(w, ':');
      schema(w, value);
    }
    write_text(w, "\\}");
  } else w->error = "a schema of an unknown kind";
}

/* ---- the engine ---- */

typedef struct {
  struct cbison_factory api;
  struct cbison_tokenizer *tokenizer;
  uint8_t **token;
  int *length;
  long refs;
  char options[1024];
} factory;

struct cbison_matcher {
  factory *owner;
  automaton *machine;
  states at;
  uint32_t *history;
  size_t size, room;
  char error[160];
};

static int has_fault(const factory *f, const char *name) {
  char quoted[64];
  snprintf(quoted, sizeof quoted, "\"%s\"", name);
  return strstr(f->options, quoted) != NULL;
}
static int32_t fail(struct cbison_matcher *m, const char *why) {
  if (!m->error[0]) snprintf(m->error, sizeof m->error, "%s", why);
  return -1;
}
static void incr(struct cbison_factory *api) { __atomic_add_fetch(&((factory *)api)->refs, 1, __ATOMIC_SEQ_CST); }
static void decr(struct cbison_factory *api) {
  factory *f = (factory *)api;
  if (__atomic_sub_fetch(&f->refs, 1, __ATOMIC_SEQ_CST)) return;
  for (size_t t = 0; t < f->api.n_vocab; t++) give(f->token[t]);
  give(f->token), give(f->length);
  f->tokenizer->decr_ref_count(f->tokenizer);
  memset(f, 0xAB, sizeof *f); /* whoever still reads it notices */
  give(f);
  __atomic_sub_fetch(&live_factories, 1, __ATOMIC_SEQ_CST);
}
long toy_references(struct cbison_factory *api) { return __atomic_load_n(&((factory *)api)->refs, __ATOMIC_SEQ_CST); }

static automaton *machine_of(const char *kind, const char *text, const char **why) {
  if (!strcmp(kind, "regex")) return compiled(text, why);
  if (strcmp(kind, "json") && strcmp(kind, "json_schema")) { *why = "an unknown kind of grammar"; return NULL; }
  writer *w = take(sizeof *w);
  schema(w, text);
  automaton *m = NULL;
  if (w->error) *why = w->error; else m = compiled(w->text, why);
  give(w);
  return m;
}
static int32_t validate_grammar(struct cbison_factory *api, const char *kind, const char *text, char *said, size_t room) {
  const char *why = NULL;
  if (has_fault((factory *)api, "endless_message")) { memset(said, 'x', room); return 1; }
  automaton *m = machine_of(kind, text, &why);
  give(m);
  snprintf(said, room, "%s", why ? why : "");
  return why ? -1 : 0;
}
static void begin(struct cbison_matcher *m) {
  memset(&m->at, 0, sizeof m->at);
  if (m->machine) reach(m->machine, &m->at, m->machine->start);
  m->size = 0;
}
static struct cbison_matcher *new_matcher(struct cbison_factory *api, const char *kind, const char *text) {
  const char *why = NULL;
  factory *f = (factory *)api;
  if (has_fault(f, "null_matcher")) return NULL;
  struct cbison_matcher *m = take(sizeof *m);
  m->owner = f;
  m->machine = machine_of(kind, text, &why);
  if (why) fail(m, why);
  begin(m);
  incr(api);
  __atomic_add_fetch(&live_matchers, 1, __ATOMIC_SEQ_CST);
  return m;
}
static void free_matcher(struct cbison_matcher *m) {
  factory *f = m->owner;
  if (m->machine && !__atomic_sub_fetch(&m->machine->refs, 1, __ATOMIC_SEQ_CST)) give(m->machine);
  give(m->history);
  give(m);
  __atomic_sub_fetch(&live_matchers, 1, __ATOMIC_SEQ_CST);
  decr(&f->api);
}
static const char *get_error(struct cbison_matcher *m) {
  return m->error[0] && !has_fault(m->owner, "silent") ? m->error : NULL;
}
/* Whether the token can come next; then `set` is past it. */
static int can_take(const struct cbison_matcher *m, states *set, uint32_t token) {
  factory *f = m->owner;
  if (token >= f->api.n_vocab || f->length[token] <= 0) return 0; /* special tokens have length 0 here */
  for (int i = 0; i < f->length[token]; i++) if (!step(m->machine, set, f->token[token][i])) return 0;
  return 1;
}
static int32_t compute_mask(struct cbison_matcher *m, uint32_t *dest, size_t bytes) {
  factory *f = m->owner;
  if (has_fault(f, "mask_says_7")) return 7;
  if (has_fault(f, "mask_breaks") && m->size >= 1) return fail(m, "the mask broke");
  if (has_fault(f, "mask_breaks_unsaid") && m->size >= 1) { fail(m, "the mask broke, unsaid"); return 0; }
  if (m->error[0]) return -1;
  if (bytes != f->api.mask_byte_len) return fail(m, "a mask of another size");
  memset(dest, has_fault(f, "stray_bits") ? 0xFF : 0, bytes);
  for (uint32_t t = 0; t < f->api.n_vocab; t++) {
    states set = m->at;
    uint32_t bit = 1u << t % 32;
    int legal = t == f->api.eos_token_id ? accepts(m->machine, &set) : can_take(m, &set, t);
    dest[t / 32] = legal ? dest[t / 32] | bit : dest[t / 32] & ~bit;
  }
  return 0;
}
static int32_t consume_tokens(struct cbison_matcher *m, const uint32_t *tokens, size_t count) {
  if (has_fault(m->owner, "consume_breaks") && m->size + count > 2) return fail(m, "no third token");
  for (size_t i = 0; i < count; i++) {
    states set = m->at;
    if (m->error[0] || !can_take(m, &set, tokens[i])) return fail(m, "an illegal token");
    if (m->size == m->room) {
      uint32_t *wider = take((m->room = 2 * m->room + 8) * sizeof *wider);
      if (m->size) memcpy(wider, m->history, m->size * sizeof *wider);
      give(m->history);
      m->history = wider;
    }
    m->history[m->size++] = tokens[i];
    m->at = set;
  }
  return 0;
}
static bool is_accepting(struct cbison_matcher *m) { return !m->error[0] && accepts(m->machine, &m->at); }
static bool is_stopped(struct cbison_matcher *m) {
  uint8_t class[32];
  return m->error[0] || (is_accepting(m) && !followers(m->machine, &m->at, class));
}
static int32_t validate_tokens(struct cbison_matcher *m, const uint32_t *tokens, size_t count) {
  states set = m->at;
  if (has_fault(m->owner, "validates_too_many")) return (int32_t)count + 5;
  if (m->error[0]) return -1;
  for (size_t i = 0; i < count; i++) if (!can_take(m, &set, tokens[i])) return (int32_t)i;
  return (int32_t)count;
}
typedef struct { struct cbison_tokenizer *t; const char *text; size_t size, room, count; uint32_t *out; } tokenizing;
static void *tokenize_one(void *p) {
  tokenizing *j = p;
  j->count = j->t->tokenize_bytes(j->t, j->text, j->size, j->out, j->room);
  return NULL;
}
static int32_t compute_ff_tokens(struct cbison_matcher *m, uint32_t *out, size_t room) {
  char forced[4096];
  size_t size = 0;
  uint8_t class[32];
  states set = m->at;
  struct cbison_tokenizer *t = m->owner->tokenizer;
  if (has_fault(m->owner, "forces_nonsense")) { out[0] = 0xFFFFFFF0u; return 1; }
  if (has_fault(m->owner, "forces_too_many")) return (int32_t)room + 1;
  if (m->error[0]) return -1;
  while (size < sizeof forced && !accepts(m->machine, &set) && followers(m->machine, &set, class) == 1) {
    int c = 0;
    while (!has(class, c)) c++;
    forced[size++] = (char)c;
    step(m->machine, &set, c);
  }
  if (!size || !t->tokenize_bytes) return 0;
  /* On a thread of its own: a caller that kept its interpreter locked would wait for ever. */
  tokenizing j = {t, forced, size, room, 0, out};
  pthread_t id;
  if (pthread_create(&id, NULL, tokenize_one, &j)) abort();
  pthread_join(id, NULL);
  return (int32_t)(j.count < room ? j.count : room);
}
static int32_t reset(struct cbison_matcher *m) {
  if (m->error[0] || has_fault(m->owner, "reset_refuses")) return -1;
  begin(m);
  return 0;
}
static int32_t rollback(struct cbison_matcher *m, size_t count) {
  if (m->error[0]) return -1;
  if (count > m->size) return fail(m, "a rollback past the start");
  size_t kept = m->size - count;
  begin(m);
  for (size_t i = 0; i < kept; i++) can_take(m, &m->at, m->history[i]);
  m->size = kept;
  return 0;
}
static struct cbison_matcher *clone_matcher(struct cbison_matcher *m) {
  if (has_fault(m->owner, "null_clone")) return NULL;
  struct cbison_matcher *twin = take(sizeof *twin);
  *twin = *m;
  if (m->machine) __atomic_add_fetch(&m->machine->refs, 1, __ATOMIC_SEQ_CST);
  twin->history = take(m->room * sizeof *m->history);
  if (m->size) memcpy(twin->history, m->history, m->size * sizeof *m->history);
  incr(&m->owner->api);
  __atomic_add_fetch(&live_matchers, 1, __ATOMIC_SEQ_CST);
  return twin;
}
typedef struct { struct cbison_mask_req *request; size_t bytes; } job;
static void *one_row(void *p) { job *j = p; (void)!compute_mask(j->request->matcher, j->request->mask_dest, j->bytes); return NULL; }
static int32_t compute_masks(struct cbison_factory *api, struct cbison_mask_req *requests, size_t count) {
  if (has_fault((factory *)api, "batch_refuses")) return -1;
  pthread_t *threads = take(count * sizeof *threads);
  job *jobs = take(count * sizeof *jobs);
  for (size_t i = 0; i < count; i++) {
    jobs[i] = (job){&requests[i], api->mask_byte_len};
    if (pthread_create(&threads[i], NULL, one_row, &jobs[i])) abort();
  }
  for (size_t i = 0; i < count; i++) pthread_join(threads[i], NULL);
  give(threads), give(jobs);
  return 0; /* whatever became of the rows, as other engines do */
}

static void break_struct(factory *f) {
  struct cbison_factory *api = &f->api;
  if (has_fault(f, "wrong_magic")) api->magic = 0x12345678;
  if (has_fault(f, "wrong_version")) api->version_major = 2;
  if (has_fault(f, "wrong_mask_size")) api->mask_byte_len += 4;
  if (has_fault(f, "no_vocab")) api->n_vocab = 0;
  if (has_fault(f, "huge_vocab")) api->n_vocab = (size_t)-1;
  if (has_fault(f, "wrong_eos")) api->eos_token_id = (uint32_t)api->n_vocab;
  if (has_fault(f, "no_free_matcher")) api->free_matcher = NULL;
  if (has_fault(f, "no_incr")) api->incr_ref_count = NULL;
  if (has_fault(f, "wild_slot")) api->rollback = (void *)16;
}

struct cbison_factory *toy_cbison_new_factory(struct cbison_tokenizer *t, const char *options, char *error, size_t room) {
  if (t->magic != 0xff79e338 || strstr(options, "\"no_factory\"")) {
    snprintf(error, room, "the engine does not want to");
    return NULL;
  }
  factory *f = take(sizeof *f);
  f->tokenizer = t, f->refs = 1;
  snprintf(f->options, sizeof f->options, "%s", options);
  f->api = (struct cbison_factory){
      .magic = 0x1bb53ed3, .version_major = 1, .n_vocab = t->n_vocab, .mask_byte_len = (t->n_vocab + 31) / 32 * 4,
      .eos_token_id = t->eos_token_id, .incr_ref_count = incr, .decr_ref_count = decr,
      .validate_grammar = validate_grammar, .new_matcher = new_matcher, .get_error = get_error,
      .compute_mask = compute_mask, .consume_tokens = consume_tokens, .is_accepting = is_accepting,
      .is_stopped = is_stopped, .free_matcher = free_matcher};
  if (!has_fault(f, "bare")) {
    f->api.validate_tokens = validate_tokens, f->api.compute_ff_tokens = compute_ff_tokens;
    f->api.rollback = rollback, f->api.reset = reset, f->api.clone_matcher = clone_matcher;
    f->api.compute_masks = compute_masks;
  }
  if (has_fault(f, "reset_only")) f->api.reset = reset;
  if (has_fault(f, "clone_only")) f->api.clone_matcher = clone_matcher;
  f->token = take(t->n_vocab * sizeof *f->token);
  f->length = take(t->n_vocab * sizeof *f->length);
  for (uint32_t i = 0; i < t->n_vocab; i++) {
    uint8_t bytes[4];
    int size = t->get_token(t, i, bytes, sizeof bytes); /* too small on purpose for some */
    if (size < 0) size = 0;
    f->token[i] = take(size);
    f->length[i] = t->is_special_token(t, i) ? 0 : t->get_token(t, i, f->token[i], size);
  }
  t->incr_ref_count(t);
  __atomic_add_fetch(&live_factories, 1, __ATOMIC_SEQ_CST);
  break_struct(f);
  return &f->api;
}
