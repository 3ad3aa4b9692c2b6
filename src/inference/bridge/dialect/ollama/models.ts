/**
 * Models in the form in which Ollama lists and shows them. Properties that the bridge does not know are empty. Pure.
 */
import { createHash } from 'node:crypto';
import { isEmbeddingModel, type ModelEntry } from '../../policy.ts';

export function modelList(models: readonly ModelEntry[]): unknown {
  return {
    models: models.map((model) => ({
      name: model.id,
      model: model.id,
      modified_at: modifiedAt(model),
      size: 0,
      // Ollama's CLI shows the first digits.
      digest: createHash('sha256').update(model.id).digest('hex'),
      details: detailsOf(model),
    })),
  };
}

/** `capabilities` lists what the bridge can carry. */
export function shownModel(model: ModelEntry): unknown {
  return {
    details: detailsOf(model),
    model_info: { 'general.architecture': '', 'general.basename': model.id },
    capabilities: isEmbeddingModel(model.id) ? ['embedding'] : ['completion', 'tools', 'vision', 'thinking'],
    modified_at: modifiedAt(model),
  };
}

function detailsOf({ ownedBy }: ModelEntry): unknown {
  return {
    parent_model: '',
    format: '',
    family: ownedBy,
    families: [ownedBy],
    parameter_size: '',
    quantization_level: '',
  };
}

function modifiedAt({ created }: ModelEntry): string {
  const time = new Date(created * 1000);
  return (Number.isNaN(time.getTime()) ? new Date(0) : time).toISOString();
}
