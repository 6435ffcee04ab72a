"""Made by tests/blocking_stub.py from the async classes: do not edit."""

from typing import Any
from collections.abc import Awaitable
from greenroom.backends.protocol import Backend
from anyio.from_thread import BlockingPortal
from collections.abc import Callable
from greenroom.constraints.constraint import Constraint
from greenroom.chat.dispatch import Dispatch
from greenroom.request.mapped import Errors
from greenroom.events import Event
from greenroom.inputs.parameters import GenerateParameters
from typing import Generic
from greenroom.request.probes import Handle
from greenroom.events import Info
from collections.abc import Iterable
from collections.abc import Iterator
from typing import Literal
from greenroom.blocking.loop_thread import LoopKind
from greenroom.request.mapped import Mapped
from collections.abc import Mapping
from greenroom.constraints.user_matcher import Matcher
from greenroom.chat.messages import Message
from greenroom.backends.protocol import ModelInfo
from greenroom.chat.conversation import OnCancel
from greenroom.chat.dispatch import OnRejected
from greenroom.chat.dispatch import OnToolError
from greenroom.chat.overflow import Overflow
from pathlib import Path
from greenroom.request.probes import Probe
from greenroom.request.run import Progress
from greenroom.inputs.prompts import Prompt
from greenroom.generator.iterators import PulledToken
from greenroom.chat.session import Question
from greenroom.request.streams import Result
from greenroom.inputs.samplers import Sampler
from typing import Self
from collections.abc import Sequence
from greenroom.actors.scheduler.statistics import Statistics
from greenroom.actors.mailbox import Status
from greenroom.generator.steps import StepOutput
from greenroom.events import StopDetail
from greenroom.events import StopReason
from greenroom.structured.reader import Structure
from greenroom.structured.structures import StructureOptions
from greenroom.constraints.structures import Path as StructuresPath
from greenroom.events import Token
from greenroom.backends.protocol import Tokenizer
from greenroom.inputs.tools import Tools
from types import TracebackType
from greenroom.errors import TruncatedJson
from greenroom.events import TurnEvent
from typing_extensions import TypeForm
from typing import TypeVar
from typing import TypedDict
from typing import Unpack
from greenroom.constraints.vocabulary import Vocabulary
from greenroom.chat.conversation import WhenBusy
from contextlib import contextmanager
from typing import overload

__all__ = [
    "Adapter",
    "ChatSession",
    "Context",
    "Drain",
    "EventPull",
    "EventStream",
    "EventTurn",
    "Forks",
    "GenerationTask",
    "Generator",
    "Iteration",
    "Marked",
    "Results",
    "Runtime",
    "Snapshot",
    "Step",
    "Stream",
    "Structures",
    "TextTurn",
    "TokenPull",
    "TokenStream",
    "fail_after",
    "generate",
    "generate_task",
    "generate_token_task",
    "generate_tokens",
    "generate_tokens_task",
    "parse_anthropic_stream",
    "parse_hf_stream",
    "parse_openai_stream",
    "structures",
]
E = TypeVar("E")
G = TypeVar("G")
T = TypeVar("T")

class ParameterOptions(TypedDict, total=False):
    max_tokens: int | None
    max_kv_size: int | None
    kv_bits: int | None
    kv_group_size: int
    quantized_kv_start: int
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    seed: int | None
    repetition_penalty: float | None
    repetition_context_size: int
    presence_penalty: float | None
    presence_context_size: int
    frequency_penalty: float | None
    frequency_context_size: int
    prefill_step_size: int | None
    stop: str | int | Sequence[str | int]
    stop_in_thinking: bool
    default_stops: bool
    min_tokens: int
    logit_bias: dict[int, float] | None
    logprobs: int | None
    timeout: float | None
    force_tokens: bool
    reasoning: Literal["events", "text", "drop"]
    thinking_tokens: int | None
    adapter: Adapter | None
    zo_seed: int | None
    horizon: int | None
    priority: int
    client: str | None
    user: str | None
    weight: float

class RequestOptions(ParameterOptions, total=False):
    constrain: object
    template: bool | None
    template_options: Mapping[str, Any] | None
    thinking: bool | None
    context: Context | None
    progress: Progress | None

class GenerateOptions(RequestOptions, total=False):
    tools: Tools | None
    tool_choice: str
    tool_format: str | None

class TokenOptions(RequestOptions, total=False):
    include_stop_token: bool

class TurnOptions(ParameterOptions, total=False):
    constrain: object
    tool_choice: str
    template: bool | None
    thinking: bool | None
    progress: Progress | None

class Adapter:
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None: ...
    def close(self) -> None: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def is_closed(self) -> bool: ...
    @property
    def name(self) -> str: ...
    num_updates: int

    def perturbed(self, seed: int) -> Adapter: ...
    def save(self, folder: str | Path) -> None: ...
    @property
    def sigma(self) -> float | None: ...
    def update(
        self, seeds: Sequence[int], scores: Sequence[float], *, lr: float, sigma: float | None = None
    ) -> bool: ...

class Context:
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None: ...
    def assistant(self, content: str) -> Self: ...
    def close(self) -> None: ...
    def cue(self) -> Self: ...
    def delete(self, name: str) -> None: ...
    def fill(self, content: str | Sequence[int]) -> Self: ...
    def flush(self, parameters: GenerateParameters | None = None) -> int: ...
    def fork(self) -> Context: ...
    def fork_many(self, count: int) -> list[Context]: ...
    def generate(
        self,
        sampler: Sampler | GenerateParameters | None = None,
        *,
        max_tokens: int | None = None,
        stop: str | int | Sequence[str | int] = ...,
        constrain: object = None,
        speculator: Any = None,
        system_speculation: bool = False,
        draft_model: Any = None,
        adapter: Adapter | None = None,
        zo_seed: int | None = None,
        horizon: int | None = None,
        priority: int | None = None,
        client: str | None = None,
        user: str | None = None,
        weight: float | None = None,
        seed: int | None = None,
        default_stops: bool = True,
        stop_in_thinking: bool = False,
        tools: Tools | None = None,
        tool_choice: str = "auto",
        tool_format: str | None = None,
    ) -> Generator: ...
    @property
    def kv_bytes(self) -> int: ...
    def save(self, name: str) -> None: ...
    def score(self, ids: Sequence[int]) -> list[float]: ...
    def seal(self) -> Self: ...
    def snapshot(self) -> Snapshot: ...
    def system(self, content: str) -> Self: ...
    @property
    def tokens(self) -> list[int]: ...
    def tool(self, content: str) -> Self: ...
    def truncate(self, count: int) -> None: ...
    def user(self, content: str) -> Self: ...

class Drain:
    is_asked: bool
    is_over: bool
    num_cut: int

    def wait(self) -> int: ...

class Forks(Generic[G]):
    def __enter__(self) -> list[G]: ...
    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None: ...
    def wait(self) -> list[G]: ...

class GenerationTask:
    def cancel(self) -> None: ...
    @property
    def info(self) -> Info | None: ...
    @property
    def status(self) -> Status: ...
    def wait(self) -> Info: ...

class Generator:
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None: ...
    def __iter__(self) -> Iterator[Step]: ...
    def __next__(self) -> Step: ...
    def accept(self, tokens: Sequence[int]) -> tuple[int, ...]: ...
    @property
    def all_tokens(self) -> tuple[int, ...]: ...
    @property
    def children(self) -> list[Generator]: ...
    def close(self, *, cascade: bool = False) -> None: ...
    @overload
    def collect_json(self, schema: Any = None, *, parse: Callable[[str], T]) -> T: ...
    @overload
    def collect_json(
        self, schema: Mapping[str, Any] | str | Constraint | None = None, *, parse: None = None
    ) -> Any: ...
    @overload
    def collect_json(self, schema: TypeForm[T], *, parse: None = None) -> T: ...
    def collect_text(self) -> str: ...
    def collect_tokens(self) -> list[int]: ...
    @property
    def context(self) -> Context: ...
    def events(self) -> EventPull: ...
    def fork(
        self, *, seed: int | None = None, max_tokens: int | None = None, sampler: Sampler | None = None
    ) -> Generator: ...
    def fork_many(self, count: int, seeds: Sequence[int] | None = None) -> Forks[Generator]: ...
    @property
    def horizon(self) -> int | None: ...
    @horizon.setter
    def horizon(self, tokens: int | None) -> None: ...
    @property
    def info(self) -> Info: ...
    @property
    def is_done(self) -> bool: ...
    @property
    def is_live(self) -> bool: ...
    @property
    def kv_bytes(self) -> int: ...
    @property
    def output(self) -> tuple[int, ...]: ...
    @property
    def parent(self) -> Generator | None: ...
    def probe_each_step(self, index: int, probe: Probe) -> Handle: ...
    def retain_only(self, child: Generator) -> None: ...
    def rewind(self, count: int, *, seed: int | None = None) -> None: ...
    @property
    def sampler(self) -> Sampler: ...
    def save(self, name: str) -> None: ...
    @property
    def seed(self) -> int: ...
    def snapshot(self) -> Snapshot: ...
    @property
    def stop_detail(self) -> StopDetail | None: ...
    @property
    def stop_reason(self) -> StopReason | None: ...
    @property
    def text(self) -> str: ...
    def tokens(self) -> TokenPull: ...
    @property
    def tokens_generated(self) -> int: ...

class Snapshot:
    @classmethod
    def load(cls, path: str | Path, runtime: Runtime | None = None) -> Self: ...
    def open(self) -> Context: ...
    def restore(self) -> Generator: ...
    def save(self, path: str | Path) -> None: ...
    @property
    def tokens(self) -> tuple[int, ...]: ...

class Step:
    def clear_sampler(self) -> None: ...
    @property
    def draws(self) -> bool: ...
    def execute(self) -> StepOutput: ...
    @property
    def output(self) -> StepOutput | None: ...
    @property
    def position(self) -> int: ...
    def probe(self, index: int, probe: Probe) -> Handle: ...
    @property
    def sampler(self) -> Sampler | None: ...
    @sampler.setter
    def sampler(self, sampler: Sampler) -> None: ...

class EventPull:
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None: ...
    def __iter__(self) -> Self: ...
    def __next__(self) -> Event: ...
    def close(self) -> None: ...

class TokenPull:
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None: ...
    def __iter__(self) -> Self: ...
    def __next__(self) -> PulledToken: ...
    def close(self) -> None: ...

class Stream(Generic[E]):
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None: ...
    def __iter__(self) -> Self: ...
    def __next__(self) -> E: ...
    def close(self) -> None: ...
    def collect(self) -> Result: ...
    @property
    def task(self) -> GenerationTask: ...

class Results(Generic[T]):
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None: ...
    def __iter__(self) -> Iterator[Mapped[T]]: ...
    def __next__(self) -> Mapped[T]: ...
    def close(self) -> None: ...

class Structures(Generic[T]):
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None: ...
    def __iter__(self) -> Self: ...
    def __next__(self) -> T: ...
    def close(self) -> None: ...
    @property
    def done(self) -> frozenset[StructuresPath]: ...
    @property
    def error(self) -> TruncatedJson | None: ...
    @property
    def info(self) -> Info | None: ...
    @property
    def is_complete(self) -> bool: ...
    @property
    def latest(self) -> Structure[T] | None: ...
    def marked(self) -> Marked[T]: ...
    def nested(self) -> Iteration[Iterator[T]]: ...
    def receive(self, *, with_marks: bool = False) -> Structure[T]: ...

class Marked(Generic[T]):
    def __iter__(self) -> Self: ...
    def __next__(self) -> Structure[T]: ...

class EventTurn:
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None: ...
    def __iter__(self) -> Self: ...
    def __next__(self) -> TurnEvent: ...
    def close(self) -> None: ...
    def stop(self) -> None: ...

class TextTurn:
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None: ...
    def __iter__(self) -> Self: ...
    def __next__(self) -> str: ...
    def close(self) -> None: ...
    def stop(self) -> None: ...

class ChatSession:
    def __init__(
        self,
        runtime: Runtime | None = None,
        *,
        instructions: str | None = None,
        history: Sequence[Mapping[str, Any]] = ...,
        tools: Tools | None = None,
        tool_dispatch: Dispatch | None = None,
        tool_format: str | None = None,
        parameters: GenerateParameters | None = None,
        template_options: Mapping[str, Any] | None = None,
        max_rounds: int = ...,
        max_rejections: int = ...,
        on_tool_error: OnToolError = "tell",
        on_rejected: OnRejected = "tell",
        on_cancel: OnCancel = "rollback",
        when_busy: WhenBusy = "wait",
        context_overflow: Overflow = "error",
        thinking: bool | None = None,
    ) -> None: ...
    def clear(self) -> None: ...
    def fork(self) -> ChatSession: ...
    @property
    def history(self) -> list[Message]: ...
    instructions: str | None

    @property
    def is_busy(self) -> bool: ...
    def load(self, path: str | Path, *, cache: bool = True) -> None: ...
    parameters: GenerateParameters | None

    @overload
    def respond(self, prompt: Question, *, into: None = None, **overrides: Unpack[TurnOptions]) -> str: ...
    @overload
    def respond(
        self, prompt: Question, *, into: Mapping[str, Any] | Constraint, **overrides: Unpack[TurnOptions]
    ) -> Any: ...
    @overload
    def respond(self, prompt: Question, *, into: TypeForm[T], **overrides: Unpack[TurnOptions]) -> T: ...
    def save(self, path: str | Path, *, cache: bool = True) -> None: ...
    def stop(self) -> None: ...
    def stream_events(self, prompt: Question, **overrides: Unpack[TurnOptions]) -> EventTurn: ...
    def stream_response(self, prompt: Question, **overrides: Unpack[TurnOptions]) -> TextTurn: ...

class Runtime:
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None: ...
    def __init__(
        self,
        model: str | Path | None = None,
        *,
        backend: Backend | None = None,
        max_rows: int = ...,
        max_step_tokens: int | None = None,
        step_target: float | None = ...,
        max_waiting: int = ...,
        client_limit: int | None = None,
        kv_bytes: int | None = None,
        prefix_bytes: int | None = None,
        prefix_folder: str | Path | None = None,
        prefix_file_bytes: int | None = None,
        revision: str | None = None,
        trust_remote_code: bool = False,
        context_length: int | None = None,
        max_adapters: int | None = None,
        parameters: GenerateParameters | Literal["model"] | None = None,
        process: bool = False,
        distributed: str | Path | None = None,
        pipeline: bool = False,
        loop: LoopKind = "asyncio",
    ) -> None: ...
    def call(self, function: Callable[..., Awaitable[T]], *args: Any, **options: Any) -> T: ...
    def close(self) -> None: ...
    @overload
    def collect(
        self,
        kind: Mapping[str, Any],
        prompt: Prompt,
        parameters: GenerateParameters | None = None,
        **options: Unpack[GenerateOptions],
    ) -> Any: ...
    @overload
    def collect(
        self,
        kind: TypeForm[T],
        prompt: Prompt,
        parameters: GenerateParameters | None = None,
        **options: Unpack[GenerateOptions],
    ) -> T: ...
    def context(self) -> Context: ...
    def create_adapter(
        self, *, rank: int = ..., keys: Sequence[str] = ..., sigma: float = ..., seed: int = 0
    ) -> Adapter: ...
    def delete_context(self, name: str) -> None: ...
    def drain(self, timeout: float | None = None) -> Drain: ...
    def generate(
        self,
        prompt: Prompt,
        parameters: GenerateParameters | None = None,
        *,
        tools: Tools | None = None,
        tool_choice: str = "auto",
        tool_format: str | None = None,
        **options: Unpack[RequestOptions],
    ) -> EventStream: ...
    def generate_task(
        self,
        prompt: Prompt,
        parameters: GenerateParameters | None = None,
        *,
        tools: Tools | None = None,
        tool_choice: str = "auto",
        tool_format: str | None = None,
        **options: Unpack[RequestOptions],
    ) -> tuple[EventStream, GenerationTask]: ...
    def generate_token_task(
        self,
        ids: Sequence[int] | Generator,
        parameters: GenerateParameters | None = None,
        **options: Unpack[RequestOptions],
    ) -> tuple[TokenStream, GenerationTask]: ...
    def generate_tokens(
        self,
        prompt: Prompt,
        parameters: GenerateParameters | None = None,
        *,
        include_stop_token: bool = False,
        **options: Unpack[RequestOptions],
    ) -> TokenStream: ...
    def generate_tokens_task(
        self,
        prompt: Prompt,
        parameters: GenerateParameters | None = None,
        *,
        include_stop_token: bool = False,
        **options: Unpack[RequestOptions],
    ) -> tuple[TokenStream, GenerationTask]: ...
    @property
    def is_draining(self) -> bool: ...
    @property
    def is_open(self) -> bool: ...
    def load_adapter(self, folder: str | Path, *, sigma: float | None = None) -> Adapter: ...
    @overload
    def map(
        self,
        prompts: Iterable[Prompt],
        parameters: GenerateParameters | None = None,
        *,
        into: None = ...,
        limit: int = ...,
        errors: Errors = ...,
        ordered: bool = ...,
        progress_bar: bool = ...,
        **options: Unpack[GenerateOptions],
    ) -> Results[Result]: ...
    @overload
    def map(
        self,
        prompts: Iterable[Prompt],
        parameters: GenerateParameters | None = None,
        *,
        into: Mapping[str, Any],
        limit: int = ...,
        errors: Errors = ...,
        ordered: bool = ...,
        progress_bar: bool = ...,
        **options: Unpack[GenerateOptions],
    ) -> Results[Any]: ...
    @overload
    def map(
        self,
        prompts: Iterable[Prompt],
        parameters: GenerateParameters | None = None,
        *,
        into: TypeForm[T],
        limit: int = ...,
        errors: Errors = ...,
        ordered: bool = ...,
        progress_bar: bool = ...,
        **options: Unpack[GenerateOptions],
    ) -> Results[T]: ...
    def matcher(self, constraint: object) -> Matcher: ...
    @property
    def max_rows(self) -> int: ...
    @property
    def model(self) -> ModelInfo: ...
    def open(self) -> Self: ...
    def open_context(self, saved: str | Snapshot) -> Context: ...
    @property
    def parameters(self) -> GenerateParameters: ...
    @property
    def portal(self) -> BlockingPortal: ...
    def prepare(
        self,
        prompt: Prompt,
        *,
        tools: Tools | None = None,
        template: bool | None = None,
        template_options: Mapping[str, Any] | None = None,
        thinking: bool | None = None,
    ) -> list[int]: ...
    def statistics(self) -> Statistics: ...
    @overload
    def stream(
        self,
        kind: Mapping[str, Any],
        prompt: Prompt,
        parameters: GenerateParameters | None = None,
        *,
        growing: StructureOptions | None = None,
        **options: Unpack[GenerateOptions],
    ) -> Structures[Any]: ...
    @overload
    def stream(
        self,
        kind: TypeForm[T],
        prompt: Prompt,
        parameters: GenerateParameters | None = None,
        *,
        growing: StructureOptions | None = None,
        **options: Unpack[GenerateOptions],
    ) -> Structures[T]: ...
    @property
    def tokenizer(self) -> Tokenizer: ...
    @property
    def vocabulary(self) -> Vocabulary: ...

class EventStream(Stream[Event]):
    @overload
    def structures(self, kind: Mapping[str, Any], **options: Unpack[StructureOptions]) -> Structures[Any]: ...
    @overload
    def structures(self, kind: TypeForm[T], **options: Unpack[StructureOptions]) -> Structures[T]: ...
    def text(self) -> str: ...

class TokenStream(Stream[Token | Info]): ...

class Iteration(Generic[T]):
    def __enter__(self) -> Self: ...
    def __exit__(self, *failure: object) -> None: ...
    def __iter__(self) -> Self: ...
    def __next__(self) -> T: ...
    def close(self) -> None: ...

@contextmanager
def fail_after(timeout: float | None) -> Iterator[None]: ...
def generate(
    prompt: Prompt,
    parameters: GenerateParameters | None = None,
    *,
    runtime: Runtime | None = None,
    **options: Unpack[GenerateOptions],
) -> EventStream: ...
def generate_task(
    prompt: Prompt,
    parameters: GenerateParameters | None = None,
    *,
    runtime: Runtime | None = None,
    **options: Unpack[GenerateOptions],
) -> tuple[EventStream, GenerationTask]: ...
def generate_token_task(
    ids: Sequence[int],
    parameters: GenerateParameters | None = None,
    *,
    runtime: Runtime | None = None,
    **options: Unpack[RequestOptions],
) -> tuple[TokenStream, GenerationTask]: ...
def generate_tokens(
    prompt: Prompt,
    parameters: GenerateParameters | None = None,
    *,
    runtime: Runtime | None = None,
    **options: Unpack[TokenOptions],
) -> TokenStream: ...
def generate_tokens_task(
    prompt: Prompt,
    parameters: GenerateParameters | None = None,
    *,
    runtime: Runtime | None = None,
    **options: Unpack[TokenOptions],
) -> tuple[TokenStream, GenerationTask]: ...
@overload
def structures(
    source: Iterable[Any], kind: Mapping[str, Any], **options: Unpack[StructureOptions]
) -> Structures[Any]: ...
@overload
def structures(source: Iterable[Any], kind: TypeForm[T], **options: Unpack[StructureOptions]) -> Structures[T]: ...
@overload
def parse_anthropic_stream(
    stream: Any, kind: Mapping[str, Any], *, tool: str | None = ..., **options: Unpack[StructureOptions]
) -> Structures[Any]: ...
@overload
def parse_anthropic_stream(
    stream: Any, kind: TypeForm[T], *, tool: str | None = ..., **options: Unpack[StructureOptions]
) -> Structures[T]: ...
@overload
def parse_hf_stream(stream: Any, kind: Mapping[str, Any], **options: Unpack[StructureOptions]) -> Structures[Any]: ...
@overload
def parse_hf_stream(stream: Any, kind: TypeForm[T], **options: Unpack[StructureOptions]) -> Structures[T]: ...
@overload
def parse_openai_stream(
    stream: Any, kind: Mapping[str, Any], *, tool: str | None = ..., **options: Unpack[StructureOptions]
) -> Structures[Any]: ...
@overload
def parse_openai_stream(
    stream: Any, kind: TypeForm[T], *, tool: str | None = ..., **options: Unpack[StructureOptions]
) -> Structures[T]: ...
