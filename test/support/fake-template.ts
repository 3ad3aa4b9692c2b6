/** Templates of the fake host: from an image, and with a name. */

import { OciError } from '../../src/artifacts/oci/errors.ts';
import { imageFailure, parseReference } from '../../src/host/runtime/images.ts';
import { checkNamedRequest, withTemplate } from '../../src/host/runtime/named-templates/request.ts';
import type { EnvironmentSource } from '../../src/sandbox/contract/environment.ts';
import type { SandboxError } from '../../src/sandbox/contract/errors.ts';
import type { ControlParts } from '../../src/sandbox/plane/control-plane.ts';
import type { OpenTemplate } from '../../src/sandbox/start/pools.ts';
import { linkOrCopy } from '../../src/sys/link-or-copy.ts';

export function withImage(template: OpenTemplate, { environment, path }: EnvironmentSource): OpenTemplate {
  return {
    ...template,
    key: `${template.key} ${environment.digest}`,
    spec: { ...template.spec, environment },
    source: { ...template.source, linkEnvironment: (to) => linkOrCopy(path, to) },
  };
}

/** Every name resolves to the one template. */
export function fromNamed(template: OpenTemplate): ControlParts['fromNamedTemplate'] {
  return async (name, request) => {
    checkNamedRequest(request);
    const named = { name, spec: template.spec };
    return { request: withTemplate(named, request), named };
  };
}

export function noImage(name: string): SandboxError {
  try {
    const { text } = parseReference(name, '/');
    return imageFailure(name, new OciError('image_not_found', `there is no image ${text}`));
  } catch (error) {
    if (error instanceof OciError) return imageFailure(name, error);
    throw error;
  }
}
