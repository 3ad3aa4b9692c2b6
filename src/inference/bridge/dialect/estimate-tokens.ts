/** Estimates the tokens of a conversation without asking a model server. Pure. */
import { estimatedTokens } from '../token-estimate.ts';
import type { ConversationRequest, Part } from './model.ts';

/** Counts all text that the model reads, wherever a sandbox puts its prompt in the request, but no images. */
export function estimateTokens({ system, messages, tools, format }: ConversationRequest): number {
  let characters = system.length + (typeof format === 'object' ? jsonLength(format) : 0);
  for (const { parts } of messages) for (const part of parts) characters += lengthOf(part);
  for (const { name, description = '', schema } of tools) {
    characters += name.length + description.length + jsonLength(schema);
  }
  return estimatedTokens(characters);
}

function lengthOf(part: Part): number {
  switch (part.type) {
    case 'text':
    case 'reasoning':
      return part.text.length;
    case 'tool-call':
      return part.name.length + jsonLength(part.input);
    case 'tool-result':
      return part.content.reduce((sum, inner) => sum + lengthOf(inner), 0);
    case 'image':
      return 0;
  }
}

const jsonLength = (value: unknown): number => (value === undefined ? 0 : JSON.stringify(value).length);
