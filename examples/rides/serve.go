package main

import (
	"context"
	"errors"
	"net"
	"net/http"
	"time"
)

// releaseBound is how long it may take to give up what has not come to its end within the time to stop.
const releaseBound = 10 * time.Second

// serve answers requests until ctx ends. Then, SIGTERM for example, nothing is lost: requests that are under way have
// until stopBound to come to their end. Operations that have not are cancelled and released after their last recorded
// step, and their clients told to ask again, which any server answers by going on from there.
// closeClient is [pgidem.Client.Close] or what stands for it.
func serve(ctx context.Context, listener net.Listener, handler http.Handler, stopBound time.Duration, closeClient func(context.Context) error) error {
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 5 * time.Second}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	select {
	case err := <-served:
		return errors.Join(err, closeClient(ctx))
	case <-ctx.Done():
	}

	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopBound)
	defer cancel()
	if late := errors.Join(server.Shutdown(bounded), closeClient(bounded)); late == nil {
		return nil
	}
	// closeClient has cancelled what was late. Once more, for what is left to do: release, and answer.
	bounded, cancel = context.WithTimeout(context.WithoutCancel(ctx), releaseBound)
	defer cancel()
	return errors.Join(closeClient(bounded), server.Shutdown(bounded))
}
