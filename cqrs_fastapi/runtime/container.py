"""The application's container: what lives as long as the process."""

from __future__ import annotations

from dependency_injector import containers, providers
from pydantic import ValidationError

from cqrs_fastapi.brokers.broker import Broker
from cqrs_fastapi.brokers.connect import connect
from cqrs_fastapi.clock import Clock, SystemClock
from cqrs_fastapi.errors import ConfigurationError
from cqrs_fastapi.identity import IdFactory, Uuid7Factory
from cqrs_fastapi.mediation.providers import AnyContainer, Provides, arguments_of, target_of
from cqrs_fastapi.personal_data.key_provider import KeyProvider, LocalKeyProvider, keys_of
from cqrs_fastapi.settings import Settings
from cqrs_fastapi.storage.database import Database


def _connect(settings: Settings) -> Broker:
    return connect(settings.broker_url, settings)


def _local_keys(settings: Settings) -> KeyProvider | None:
    """The keys of the settings; None without any: then nothing can be encrypted."""
    given = settings.personal_data_keys
    return LocalKeyProvider(keys_of(given.get_secret_value())) if given else None


def read_settings() -> Settings:
    """The settings of the environment. ConfigurationError names what cannot be read, and never repeats a value."""
    try:
        return Settings()
    except ValidationError as error:
        wrong = (f"CQRS_{'_'.join(map(str, one['loc'])).upper()}: {one['msg']}" for one in error.errors())
        raise ConfigurationError(f"the environment has settings that cannot be read: {'; '.join(wrong)}") from None


class CqrsContainer(containers.DeclarativeContainer):
    """Subclass it, add providers of your own, and give an instance to `CQRS(container=Container())`.

    Factories make a value for each use, and of a generator function one for each message; singletons and resources live
    as long as the application. Every provider here can be replaced by an attribute of the same name.
    """

    settings: Provides[Settings] = providers.Singleton(read_settings)
    clock: Provides[Clock] = providers.Singleton(SystemClock)
    ids: Provides[IdFactory] = providers.Singleton(Uuid7Factory)
    database: Provides[Database] = providers.Singleton(Database, settings)
    broker: Provides[Broker] = providers.Singleton(_connect, settings)
    key_provider: Provides[KeyProvider | None] = providers.Singleton(_local_keys, settings)


def give_settings(container: AnyContainer) -> None:
    """Let database, broker and key provider have the container's own settings. They refer to the provider they were
    declared with, which a subclass with a `settings` of its own has replaced.
    """
    own = container.providers["settings"]
    for name in ("database", "broker", "key_provider"):
        for given in arguments_of(container.providers[name])[0]:
            if given is not own and target_of(given) is read_settings:
                given.override(own)
