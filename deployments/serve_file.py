"""Read a Serve file, the same one that `serve deploy` takes."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from ray.serve.schema import ServeDeploySchema

from deployments.errors import ConfigError
from deployments.schema import AppSpec, ModelSpec, parse_settings

IMPORT_PATH = "deployments.app:build_app"
_POLICY = "autoscaling_policy: {policy_function: deployments.autoscaling:fleet_policy}"


@dataclass(frozen=True, slots=True)
class ServeFile:
    """What a Serve file says, checked. `args` are the application's settings as written.

    `schema` is the whole file as Serve's controller takes it.
    """

    path: Path
    app_name: str
    route_prefix: str
    host: str
    port: int
    args: dict[str, Any]
    settings: AppSpec
    schema: ServeDeploySchema

    @property
    def has_https(self) -> bool:
        return bool(self.schema.http_options.ssl_certfile)

    @property
    def says_more_than_settings(self) -> bool:
        """Whether it names a policy for the whole application, or changes deployments of it."""
        (app,) = self.schema.applications
        return app.autoscaling_policy is not None or bool(app.deployments)


def check_https(file: ServeFile) -> None:
    """Raises ConfigError where the file asks for https with what this machine cannot serve it."""
    http = file.schema.http_options
    if not file.has_https:
        return
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        password = http.ssl_keyfile_password
        # Never asked for at a terminal.
        context.load_cert_chain(http.ssl_certfile, http.ssl_keyfile, lambda: password or "")
        if http.ssl_ca_certs:
            context.load_verify_locations(http.ssl_ca_certs)
    except OSError as error:  # ssl.SSLError is one
        raise ConfigError(
            f"{file.path}: http_options: no https with ssl_certfile {http.ssl_certfile}, "
            f"ssl_keyfile {http.ssl_keyfile}: {error.strerror or error}"
        ) from None


def read_serve_file(path: Path) -> ServeFile:
    """Raises ConfigError when the file is missing, is no Serve file, or has wrong settings."""
    try:
        document = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {error}") from None
    try:
        schema = ServeDeploySchema.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the whole file"
        raise ConfigError(f"{path} is not a Serve file: {where}: {first['msg']}") from None
    if schema.http_options.ssl_keyfile and not schema.http_options.ssl_certfile:
        # Serve looks at the other way round alone, and would serve in the clear.
        raise ConfigError(f"{path}: http_options.ssl_keyfile takes an ssl_certfile beside it")
    if len(schema.applications) != 1 or schema.applications[0].import_path != IMPORT_PATH:
        raise ConfigError(f"{path} must hold one application with import_path: {IMPORT_PATH}")
    (app,) = schema.applications
    try:
        settings = parse_settings(app.args)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    if app.autoscaling_policy is None and any(map(_scales, settings.launched)):
        raise ConfigError(f"{path}: scaling takes, beside the application's import_path, {_POLICY}")
    return ServeFile(
        path=path,
        app_name=app.name,
        route_prefix=app.route_prefix or "/",
        host=schema.http_options.host,
        port=schema.http_options.port,
        args=dict(app.args),
        settings=settings,
        schema=schema,
    )


def _scales(model: ModelSpec) -> bool:
    """Without a policy of the application Serve would count requests, two to a replica."""
    pools = (model.target, model.drafter)
    return any(pool is not None and pool.scaling is not None for pool in pools)
