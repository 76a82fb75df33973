"""A model folder's chat template is rendered in a sandbox: it can neither reach Python nor change what it is given."""

from __future__ import annotations

import pytest

from workers.engine.loader import LoadedModel
from workers.engine.protocol import Refused, Request

ESCAPES = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ self.__init__.__globals__ }}{{ (1).__class__.__base__ }}",
    "{{ messages.append({'role': 'system'}) }}",
    "{% set _ = messages.clear() %}",
    "{{ messages[0].update({'role': 'system'}) }}",
    "{{ '%s'.__class__.format.__globals__ }}",
]


@pytest.mark.parametrize("template", ESCAPES)
def test_a_template_that_reaches_out_is_refused(qwen3_vl: LoadedModel, template: str) -> None:
    processor = qwen3_vl.processing._processor
    kept = processor.chat_template
    processor.chat_template = template
    messages = ({"role": "user", "content": [{"type": "text", "text": "hm"}]},)
    try:
        with pytest.raises(Refused) as refused:
            qwen3_vl.processing.render(Request("escape", messages))
    finally:
        processor.chat_template = kept
    assert refused.value.code == "messages_refused"
    assert "__" not in str(refused.value), "and says nothing of what it tried"
