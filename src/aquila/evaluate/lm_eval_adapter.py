"""lm-eval over our engine, in this process: `lm_eval.simple_evaluate(model=EngineLM(aquila.load(...)), tasks=[...])`.

Needs lm-eval 0.4.13 or newer (`pip install aquila-lm[lm-eval]`), and neither torch nor transformers for its sake.
"""

from collections.abc import Sequence
from typing import Any

from lm_eval import utils  # ty: ignore[import-not-found]  an extra
from lm_eval.api.instance import Instance  # ty: ignore[import-not-found]
from lm_eval.api.model import LM  # ty: ignore[import-not-found]
from lm_eval.models.utils import normalize_gen_kwargs  # ty: ignore[import-not-found]

from aquila.errors import ConfigError
from aquila.evaluate.loglikelihood import Likelihood, Pair, Scorer, encode_pair, prefix_token_id, split_spaces
from aquila.generate.load import Model
from aquila.generate.request import Request
from aquila.generate.sampling import SamplingParams
from aquila.tokenizer.templates import ChatTemplate, Message, stop_token_ids, template_for

_MAX_NEW_TOKENS = 256  # where a task does not say; as lm-eval's own models
_PASSED_ON = ("top_k", "top_p", "min_p", "repetition_penalty")


class EngineLM(LM):
    """A loaded model as lm-eval wants one.

    Args:
        model: nothing else may run on its engine meanwhile.
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model
        self._template: ChatTemplate | None = None  # once conversations were asked for

    @property
    def max_length(self) -> int:
        return self.model.max_context

    @property
    def tokenizer_name(self) -> str:
        return self.model.name.replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """Chooses the template by name, or the model's own; its name."""
        if not chat_template:
            return None
        name = chat_template if isinstance(chat_template, str) else self.model.template_name
        self._template = template_for(name, self.model.tokenizer)
        if self._template is None:
            raise ConfigError(f"{self.model.name} has no chat template; name one, or leave the chat template out")
        return self._template.name

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The conversation as text. Without `add_generation_prompt` the last message is what an answer begins with."""
        if self._template is None:
            self.chat_template(True)
        assert self._template is not None, "chosen, or refused"
        messages = [Message(each["role"], each["content"]) for each in chat_history]  # ty: ignore[invalid-argument-type]
        begun = messages.pop().content if not add_generation_prompt else ""
        return self._template.render(messages) + begun

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[Likelihood]:
        """See lm-eval."""
        return self._score([self._encode_pair(*request.args) for request in requests])

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """See lm-eval: every token is predicted once, and a long text is read in windows."""
        pairs: list[Pair] = []
        counts = []
        for request in requests:
            (text,) = request.args
            windows = utils.get_rolling_token_windows(
                token_list=self.model.tokenizer.encode(text),
                prefix_token=prefix_token_id(self.model),
                max_seq_len=self.max_length,
                context_len=1,
            )
            found = [utils.make_disjoint_window(window) for window in windows]
            pairs += found
            counts.append(len(found))
        scores = iter(self._score(pairs))
        return [sum(next(scores)[0] for _ in range(count)) for count in counts]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """See lm-eval. A prompt that leaves no room for its answer loses its beginning."""
        wanted = [self._request(*request.args) for request in requests]
        answers = []
        for start in range(0, len(wanted), 256):
            answers += [group[0].text for group in self.model.engine.generate(wanted[start : start + 256])]
        return answers

    def _request(self, context: str, settings: dict[str, Any]) -> Request:
        given = normalize_gen_kwargs(settings, _MAX_NEW_TOKENS)
        room = self.max_length - given["max_gen_toks"]
        if room < 1:
            raise ConfigError(
                f"the task asks for {given['max_gen_toks']} new tokens, the context holds {self.max_length}; "
                "give fewer by --gen-kwargs max_gen_toks=..."
            )
        stop_ids = stop_token_ids(self._template, self.model.tokenizer) if self._template else ()
        drawn = given["do_sample"]
        choose: dict[str, Any] = {"top_k": 0, "top_p": 1.0}
        choose |= {name: given[name] for name in _PASSED_ON if name in given and drawn}
        params = SamplingParams(
            temperature=given["temperature"] if drawn else 0.0,
            max_new_tokens=given["max_gen_toks"],
            stop=tuple(text for text in given["until"] if text),
            stop_token_ids=stop_ids,
            seed=given.get("seed", 0),
            **choose,
        )
        return Request(tuple(self._encode(context)[-room:]), params)

    def _encode(self, text: str) -> list[int]:
        """Special tokens are read as such only where a template wrote them."""
        if self._template is None:
            return self.model.prompt_ids(text)
        return self.model.tokenizer.encode(text, allow_special=True)

    def _encode_pair(self, context: str, continuation: str) -> Pair:
        if self._template is None or not context:
            return encode_pair(self.model, context, continuation)
        bare, continuation = split_spaces(context, continuation)
        whole, alone = self._encode(bare + continuation), self._encode(bare)
        return alone, whole[len(alone) :]

    def _score(self, pairs: Sequence[Pair]) -> list[Likelihood]:
        from tqdm import tqdm  # noqa: PLC0415  lm-eval brings it

        with tqdm(total=len(pairs), desc="Running loglikelihood requests", disable=None) as bar:
            return Scorer(self.model.engine).score(pairs, progress=lambda count: bar.update(count))
