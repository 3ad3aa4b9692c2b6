import { expect, it } from 'vitest';
import { RouteMethods } from './route-methods.ts';

it('RouteMethods: a path has the methods of all routes that match it', () => {
  const methods = new RouteMethods();
  methods.add('/v1/openapi.json', ['GET']);
  methods.add('/v1/sandboxes/:id', ['GET', 'PATCH']);
  methods.add('/v1/sandboxes/:id', ['DELETE']);
  methods.add('/v1/sandboxes/all', ['GET']);
  expect(methods.of('/v1/sandboxes/all')).toEqual(['GET']);
  expect(methods.of('/v1/sandboxes/x?a=/b')).toEqual(['GET', 'PATCH', 'DELETE']);
  expect(methods.of('/v1/openapi.json')).toEqual(['GET']);
  expect(methods.of('/v1/openapi-json')).toEqual([]);
  expect(methods.of('/v1/sandboxes/')).toEqual([]);
  expect(methods.of('/v1/sandboxes/x/y')).toEqual([]);
});
