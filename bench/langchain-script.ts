/** A LangChain script, and the model that answers it. */
import { serveCannedModel } from '../src/host/runtime/canned-model.ts';
import { NO_MODEL } from '../src/host/runtime/image-builder.ts';
import { inferenceSocket } from '../src/host/runtime/workspace.ts';
import type { SandboxParts } from '../src/sandbox/contract/parts.ts';

/** A call of the canned model. */
export const LANGCHAIN = {
  code: `
from langchain_openai import ChatOpenAI
print(ChatOpenAI(model='canned').invoke('Say ok.').content, flush=True)
`,
  output: 'ok\n',
} as const;

/** Replaces the bridge, so that the figure contains no model time. */
export const attachCannedModel: SandboxParts['attachBridge'] = async (_sandboxId, channelPath) => {
  const model = await serveCannedModel(inferenceSocket(channelPath));
  return { ...NO_MODEL, close: () => model.close() };
};
