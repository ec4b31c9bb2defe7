"""The application's container: what lives as long as the process."""

from __future__ import annotations

from collections.abc import Mapping

from dependency_injector import containers, providers
from pydantic import ValidationError

from cqrs_fastapi.brokers.broker import Broker
from cqrs_fastapi.brokers.connect import connect
from cqrs_fastapi.brokers.tokens import TokenProvider
from cqrs_fastapi.clock import Clock, SystemClock
from cqrs_fastapi.errors import ConfigurationError
from cqrs_fastapi.identity import IdFactory, Uuid7Factory
from cqrs_fastapi.mediation.providers import AnyContainer, Provides, arguments_of, target_of
from cqrs_fastapi.personal_data.key_provider import KeyProvider, LocalKeyProvider, keys_of
from cqrs_fastapi.settings import Settings
from cqrs_fastapi.storage.database import Database


def _connect(settings: Settings, tokens: TokenProvider | None) -> Broker:
    return connect(settings.broker_url, settings, tokens)


def _local_keys(settings: Settings) -> KeyProvider | None:
    """The keys of the settings; None without any: then nothing can be encrypted."""
    given = settings.personal_data_keys
    return LocalKeyProvider(keys_of(given.get_secret_value())) if given else None


def no_tokens() -> TokenProvider | None:
    """Brokers are given a password, or nothing."""
    return None


def read_settings() -> Settings:
    """The settings of the environment. ConfigurationError names what cannot be read, and never repeats a value."""
    try:
        return Settings()
    except ValidationError as error:
        wrong = (f"CQRS_{'_'.join(map(str, one['loc'])).upper()}: {one['msg']}" for one in error.errors())
        raise ConfigurationError(f"the environment has settings that cannot be read: {'; '.join(wrong)}") from None


_OWN: Mapping[object, str] = {read_settings: "settings", no_tokens: "broker_tokens"}
"""What stands for which provider of the container."""


class CqrsContainer(containers.DeclarativeContainer):
    """Subclass it, add providers of your own, and give an instance to `CQRS(container=Container())`.

    Factories make a value for each use, and of a generator function one for each message; singletons and resources live
    as long as the application. Every provider here can be replaced by an attribute of the same name.
    """

    settings: Provides[Settings] = providers.Singleton(read_settings)
    clock: Provides[Clock] = providers.Singleton(SystemClock)
    ids: Provides[IdFactory] = providers.Singleton(Uuid7Factory)
    database: Provides[Database] = providers.Singleton(Database, settings)
    broker_tokens: Provides[TokenProvider | None] = providers.Singleton(no_tokens)
    broker: Provides[Broker] = providers.Singleton(_connect, settings, broker_tokens)
    key_provider: Provides[KeyProvider | None] = providers.Singleton(_local_keys, settings)


def give_settings(container: AnyContainer) -> None:
    """Let database, broker and key provider have the container's own settings and tokens. They refer to the providers
    they were declared with, which a subclass with some of its own has replaced.
    """
    for name in ("database", "broker", "key_provider"):
        for given in arguments_of(container.providers[name])[0]:
            own = _OWN.get(target_of(given))
            if own is not None and container.providers[own] is not given:
                given.override(container.providers[own])


def replace_providers(container: AnyContainer, **values: object) -> None:
    """Give these values in the place of the container's providers of these names; None leaves one as it is."""
    for name, value in values.items():
        if value is not None:
            container.providers[name].override(providers.Object(value))
